"""The documents tell the truth where a test can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from taskflow.agent.marks import AGENT_ROOT
from taskflow.cli.app import cli
from taskflow.settings import table

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`")
#: Pages whose promises name the tests that hold them, and how many they name at least.
_PROMISES = {"README.md": 6, "SECURITY.md": 10, "docs/explanation/failure.md": 30}
#: A command of ours at the beginning of a line of code, of a substitution, or of words that are set as code.
_COMMAND = re.compile(r"(?:^|[`;|(])\s*(?:\$ )?(?:[\w./-]+/)?taskflow ([a-z][^`;|)#\n]*)", re.MULTILINE)


def commands_in(text: str) -> Iterator[list[str]]:
    """Commands of ours that a page shows, in blocks and between backticks; their words."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for code in (*blocks, *(span for span in spans if span.startswith("`taskflow "))):
        yield from (found.split() for found in _COMMAND.findall(code.replace("\\\n", " ")))


def unknown_in(words: list[str]) -> list[str]:
    """Commands and options among the words that there are not. What stands behind ``--`` is a task's command."""
    command: click.Command | None = cli
    while isinstance(command, click.Group) and words and words[0][0] not in "-[" and words[0].islower():
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return [words[0]]
        command, words = found, words[1:]
    assert command is not None
    options = {"-h", "--help", "--"} | {name for one in command.params for name in one.opts}
    said = words[: words.index("--")] if "--" in words else words
    return [word for word in said if word.startswith("-") and word.partition("=")[0] not in options]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_option_and_variable_exists(page: Path) -> None:
    """Whoever copies a line gets what the page says."""
    text = page.read_text()
    known = {row.env for row in table()} | {AGENT_ROOT}
    assert set(re.findall(r"\bTASKFLOW_[A-Z0-9_]*[A-Z0-9]\b", text)) - known == set()
    if page.name == "cli.md":
        return  # made from the commands themselves, with their synopses
    assert [unknown for words in commands_in(text) for unknown in unknown_in(words)] == []


def test_a_command_that_is_not_there_is_seen() -> None:
    """In a block, in a substitution, in the text; a wrong option too, but not one of a task's command."""
    page = "`taskflow nodes adit`\n```\n$ taskflow show --folow x\n.venv/bin/taskflow run --repo . -- ls --all\n```\n"
    page += "```\ntask=$(taskflow sumbit --repo .)\nuseradd taskflow users\n```\n"
    found = {unknown for words in commands_in(page) for unknown in unknown_in(words)}
    assert found == {"adit", "--folow", "sumbit"}
