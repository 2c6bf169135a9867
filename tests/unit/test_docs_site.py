"""The documentation's pages are made without a warning and need no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.house import ROOT

#: What a browser would fetch by itself while it shows a page: scripts, styles, pictures, fonts.
_FETCHED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)""")
_FETCHED_BY_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` does, on the checkout in ``source``."""
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", source / "docs", source, out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of this checkout."""
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_made_and_in_the_navigation(site: Path) -> None:
    """Each Markdown file, README, CHANGELOG and SECURITY with it; the first page leads to the documentation's."""
    sources = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    pages = {source.relative_to(ROOT).with_suffix(".html") for source in sources}
    assert {page for page in pages if not (site / page).exists()} == set()
    front = (site / "docs" / "index.html").read_text()
    sidebar = front[front.index('class="sidebar-tree"') :]
    entries = {
        (site / "docs" / href).resolve()
        for href in re.findall(r'<a class="reference internal" href="([^"#]+)"', sidebar)
    }
    assert {str(page) for page in pages - {Path("docs/index.html")} if (site / page).resolve() not in entries} == set()
    assert "docs/index.html" in (site / "index.html").read_text()


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    """They are read without a network, and nobody else hears who reads them."""
    found = {
        (str(file.relative_to(site)), url)
        for file in site.rglob("*")
        if file.suffix in (".html", ".css")
        for url in (_FETCHED if file.suffix == ".html" else _FETCHED_BY_STYLE).findall(file.read_text())
    }
    assert found == set()


@pytest.mark.parametrize("link", ["missing.md", "../README.md#no-such-heading"])
def test_a_dead_link_fails_the_build(tmp_path: Path, link: str) -> None:
    """Else the test above would prove nothing. A page that is new needs no entry anywhere."""
    docs = tmp_path / "docs"
    for directory in ("tutorial", "how-to", "explanation", "reference"):
        (docs / directory).mkdir(parents=True)
    (docs / "conf.py").write_text((ROOT / "docs" / "conf.py").read_text())
    for page in ("README.md", "CHANGELOG.md", "SECURITY.md", "docs/index.md", "docs/how-to/new.md"):
        (tmp_path / page).write_text("# A page\n")
    good = build(tmp_path, tmp_path / "good")
    assert good.returncode == 0, good.stdout + good.stderr
    (docs / "index.md").write_text(f"# A page\n\n[dead]({link})\n")
    done = build(tmp_path, tmp_path / "bad")
    assert done.returncode != 0 and link.split("#")[-1] in done.stderr
