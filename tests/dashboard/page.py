"""A page, read as a browser and a screen reader would."""

from __future__ import annotations

from html.parser import HTMLParser

from werkzeug.test import TestResponse

_VOID = frozenset({"meta", "link", "input", "img", "br", "hr"})
_NAMED = frozenset({"a", "button", "summary"})
_FORM = ("input", "select", "textarea", "meter")


class Page(HTMLParser):
    """``text`` is what is shown, ``tags`` every element with its attributes, in order."""

    def __init__(self, answer: TestResponse) -> None:
        super().__init__(convert_charrefs=True)
        self.answer = answer
        self.html = answer.text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self._wrong: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.title = ""
        self.buttons: list[str] = []
        #: Buttons, links and summaries, each with what it is called by, in order.
        self.named: list[tuple[str, dict[str, str], list[str]]] = []
        self._naming: list[list[str]] = []
        self.labelled: set[str] = set()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it; a form field inside of a label is labelled."""
        found = {name: value or "" for name, value in attrs}
        if tag in _FORM and "label" in self._open:
            found["inside-label"] = ""
        if tag == "label" and "for" in found:
            self.labelled.add(found["for"])
        if tag in ("h1", "h2"):
            self.headings.append((tag, ""))
        if tag == "button":
            self.buttons.append("")
        self.tags.append((tag, found))
        if tag in _NAMED:
            self._naming.append([found.get("aria-label", "")])
            self.named.append((tag, found, self._naming[-1]))
        if tag == "img" and self._naming:
            self._naming[-1].append(found.get("alt", ""))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Elements end in the order in which they began, or the page is broken."""
        if tag in _VOID:
            return
        if tag in _NAMED and self._naming:
            self._naming.pop()
        if not self._open or self._open.pop() != tag:
            self._wrong.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG that has nothing in it."""
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        """Text, and whose it is."""
        self.text += data
        if self._naming:
            self._naming[-1].append(data)
        if "title" in self._open and "svg" not in self._open:
            self.title += data
        if self._open and self._open[-1] in ("h1", "h2"):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if self._open and self._open[-1] == "button":
            self.buttons[-1] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The elements of this name with these attributes (``data_x`` means ``data-x``)."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]

    @property
    def h1(self) -> str:
        """The one heading of the page."""
        (found,) = [text for level, text in self.headings if level == "h1"]
        return found

    def problems(self) -> list[str]:
        """What a browser's policy would refuse, and what somebody who can't see the page would miss."""
        found = [f"</{tag}> out of order" for tag in self._wrong] + [f"<{tag}> never ends" for tag in self._open]
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        found += [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
        for tag, attributes in self.tags:
            inline = [name for name in attributes if name == "style" or name.startswith("on")]
            if inline or tag == "style" or (tag == "script" and "src" not in attributes):
                found.append(f"inline in <{tag}>: {inline}")
            for name in ("src", "href", "action"):
                if attributes.get(name, "").lower().startswith(("http:", "https:", "//", "javascript:")):
                    found.append(f"{tag} leads elsewhere: {attributes[name]}")
            said = {"aria-label", "inside-label"} & attributes.keys() or attributes.get("id") in self.labelled
            if tag in _FORM and attributes.get("type") != "hidden" and not said:
                found.append(f"no label: {tag} {attributes}")
            if "data-keep" in attributes and not {"data-key", "id"} & attributes.keys():
                found.append(f"kept without a key: {tag}")
            if tag == "th" and "scope" not in attributes:
                found.append(f"a heading of a table without scope: {attributes}")
            if tag == "img" and "alt" not in attributes:
                found.append("a picture without alt")
        found += [f"no name: {tag} {attributes}" for tag, attributes, said in self.named if not "".join(said).strip()]
        if len(self.all("table")) != len(self.all("caption")):
            found.append("a table without a caption")
        for tag, attributes in self.tags:
            for name in ("aria-labelledby", "aria-describedby"):
                found += [
                    f"{tag} {name} of nothing: {one}" for one in attributes.get(name, "").split() if one not in ids
                ]
        if sum(level == "h1" for level, _ in self.headings) != 1 or not self.title.strip(" -\n"):
            found.append("no title, or not one h1")
        return found
