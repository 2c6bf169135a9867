"""The documents tell the truth where a test can tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from taskflow.cli.app import cli
from taskflow.db.status import mermaid

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file of the checkout."""
    broken = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


def test_every_test_that_the_readme_names_exists() -> None:
    """A promise is only as good as the test beside it."""
    named = _TEST.findall((ROOT / "README.md").read_text())
    assert len(named) >= 6
    for file, function in named:
        text = (ROOT / file).read_text()
        assert not function or f"def {function}(" in text, f"{file}::{function}"


def test_the_status_diagram_is_the_table() -> None:
    """docs/reference/statuses.md draws what taskflow/db/status.py says."""
    assert mermaid() in (ROOT / "docs" / "reference" / "statuses.md").read_text()


def test_every_command_is_documented() -> None:
    """docs/reference/cli.md names each command of the command line."""
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    assert [name for name in cli.list_commands(None) if f"taskflow {name}" not in text] == []  # type: ignore[arg-type]
