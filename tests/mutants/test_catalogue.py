"""The catalogue stays true to the code, so that ``make mutants`` says something."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.__main__ import ROOT, rooms_of_tests
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant


def _exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return (ROOT / path).exists() and (not name or f"\ndef {name}(" in (ROOT / path).read_text())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_to_the_present_code(mutant: Mutant) -> None:
    """Each text it replaces is there, once; what comes out is a program; and the tests it names exist."""
    changed: dict[str, str] = {}
    for edit in mutant.edits:
        text = changed.get(edit.file) or (ROOT / edit.file).read_text()
        assert text.count(edit.old) == 1, edit.file
        assert edit.old != edit.new
        changed[edit.file] = text.replace(edit.old, edit.new)
    for file, text in changed.items():
        if file.endswith(".py"):
            ast.parse(text, file)
    assert [test for test in mutant.tests if not _exists(test)] == []


def test_there_are_enough_of_them_and_none_twice() -> None:
    """Names are what ``--only`` takes."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 18


def test_a_survivor_was_shown_to_every_test() -> None:
    """A new folder of tests is asked without being named anywhere."""
    asked = rooms_of_tests(ROOT)
    assert {path.relative_to(ROOT).parts[1] for path in (ROOT / "tests").rglob("test_*.py")} - {"mutants"} == {
        room.removeprefix("tests/") for room in asked
    }
    assert asked[0] == "tests/engine"
