"""What is looked for on any page, in the browser's own terms."""

from __future__ import annotations

from typing import Any

#: What is scrolled sideways: the page, or a part of it.
_WIDE = """() => [document.documentElement, ...document.querySelectorAll(".scroll")]
  .filter((part) => part.scrollWidth > part.clientWidth)
  .map((part) => part.getAttribute("aria-label") ?? part.nodeName)"""
#: Marks what can be reached by the keyboard, and says how many there are.
_REACHABLE = """() => {
  const all = "a[href], button, input, select, textarea, summary, [tabindex]";
  const shown = (part) => part.checkVisibility({ visibilityProperty: true });
  const found = [...document.querySelectorAll(all)].filter((part) => part.tabIndex >= 0 && !part.disabled && shown(part));
  found.forEach((part, at) => { part.dataset.stop = String(at); });
  return found.length;
}"""
#: Where the focus is: its mark, what it is, and whether one sees that it is there; null on the page itself.
_FOCUSED = """() => {
  const part = document.activeElement;
  if (!part || part === document.body) return null;
  const style = getComputedStyle(part);
  const box = part.getBoundingClientRect();
  return {
    stop: part.dataset.stop ?? null,
    what: part.outerHTML.slice(0, 120),
    seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 && box.width > 0 && box.height > 0
      && box.right > 0 && box.bottom > 0,
  };
}"""
_MARKUP = "part => part.outerHTML.slice(0, 120)"
_ROLES = frozenset({
    "button", "link", "checkbox", "radio", "textbox", "searchbox", "combobox", "listbox", "spinbutton", "dialog",
    "menuitem", "DisclosureTriangle", "image", "region",
})  # fmt: skip
_STOPS_MAX = 300


def scrolled_sideways(page: Any) -> list[str]:
    """The parts of the page that are wider than their place."""
    found: list[str] = page.evaluate(_WIDE)
    return found


def without_name(page: Any) -> list[str]:
    """What a screen reader would read out without a name: role and number of each, by the browser's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"{node['role']['value']} {node['nodeId']}"
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in _ROLES
        and not node.get("name", {}).get("value", "").strip()
    ]


def missed_by_tab(page: Any) -> list[str]:
    """Goes through the page with Tab from its beginning: what was not reached, or had no focus that one sees."""
    expected = page.evaluate(_REACHABLE)
    page.evaluate("() => { document.activeElement?.blur(); window.getSelection().removeAllRanges(); }")
    reached: set[str] = set()
    leaves = 0
    wrong: list[str] = []
    for _ in range(_STOPS_MAX):
        page.keyboard.press("Tab")
        at = page.evaluate(_FOCUSED)
        if at is None:  # past the end: begin anew, for the first focus may have been in the middle
            leaves += 1
            if leaves == 2:
                break
            continue
        if at["stop"] in reached and leaves:
            break
        if at["stop"] is not None:
            reached.add(at["stop"])
        if not at["seen"]:
            wrong.append(f"no focus to be seen: {at['what']}")
    missed = [f'[data-stop="{number}"]' for number in range(expected) if str(number) not in reached]
    return wrong + [f"not reached: {page.locator(stop).evaluate(_MARKUP)}" for stop in missed]
