"""How ``make docs`` makes pages of the Markdown files. They stay readable where they lie, so nothing of it is in them.

The source is the checkout itself: a link means the same here and on a code host. Pages are found by their place, and
a new one needs no entry anywhere.
"""

from __future__ import annotations

from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parent.parent
#: Sections of the navigation: a directory of docs/ each, in the order in which somebody new reads them.
SECTIONS = {"tutorial": "Start", "how-to": "Do", "explanation": "Understand", "reference": "Look up"}
REDIRECT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=docs/index.html">\n'

project = "taskflow"
author = copyright = "The taskflow authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CHANGELOG.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "dist", "taskflow", "web", "tests", "bench"]
nitpicky = True

#: Links to headings are checked like those to pages.
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = "taskflow"
html_show_sphinx = False
html_copy_source = False


def toctree(docname: str) -> str:
    """What the navigation shows below ``docname``: only a page called ``index`` has something below it."""
    here = (ROOT / docname).parent
    if docname == root_doc:
        parts = [_tree(here, section, title) for section, title in SECTIONS.items()]
        others = [*sorted(page.stem for page in here.glob("*.md") if page.stem != "index")]
        return "\n".join([*parts, _directive("Besides", [*others, "/README", "/CHANGELOG", "/SECURITY"])])
    if docname.startswith("docs/") and docname.endswith("/index"):
        return _directive("", [page.stem for page in sorted(here.glob("*.md")) if page.stem != "index"])
    return ""


def _tree(base: Path, section: str, title: str) -> str:
    """The pages of a section. A directory in it is one entry, its ``index.md``, or else all of its pages."""
    entries: list[Path] = []
    for path in sorted((base / section).iterdir()):
        if path.suffix == ".md":
            entries.append(path)
        elif path.is_dir():
            index = path / "index.md"
            entries += [index] if index.exists() else sorted(path.rglob("*.md"))
    return _directive(title, [str(entry.relative_to(base).with_suffix("")) for entry in entries])


def _directive(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    caption = f":caption: {title}\n" if title else ""
    return "\n```{toctree}\n:hidden:\n" + caption + "\n" + "\n".join(entries) + "\n```\n"


def _add_toctree(_app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] += toctree(docname)


def _read_again(
    _app: Sphinx, env: BuildEnvironment, added: set[str], _changed: set[str], removed: set[str]
) -> list[str]:
    """A page that is new or gone changes what its index shows, though nobody wrote in it."""
    return [name for name in env.found_docs if name.endswith("/index")] if added or removed else []


def _write_redirect(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        (Path(app.outdir) / "index.html").write_text(REDIRECT, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_toctree)
    app.connect("env-get-outdated", _read_again)
    app.connect("build-finished", _write_redirect)
    app.add_lexer("mermaid", TextLexer)  # drawing it would load a script; a code host draws it
