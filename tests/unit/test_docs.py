"""The documents tell the truth where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`")
#: Pages whose promises name the tests that hold them, and how many they name at least.
_PROMISES = {"README.md": 6, "SECURITY.md": 10, "docs/explanation/failure.md": 30}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file of the checkout."""
    broken = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", _PROMISES)
def test_every_test_that_a_promise_names_exists(page: str) -> None:
    """A promise is only as good as the test beside it."""
    named = _TEST.findall((ROOT / page).read_text())
    assert len(named) >= _PROMISES[page]
    for file, function in named:
        assert (ROOT / file).exists(), file
        assert not function or f"def {function}(" in (ROOT / file).read_text(), f"{file}::{function}"
