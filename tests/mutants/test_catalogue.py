"""The catalogue stays true to the code, so that ``make mutants`` says something."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import ROOT
from tests.mutants.catalogue import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_to_the_present_code(mutant: Mutant) -> None:
    """Each text it replaces is there, once, and the tests it names exist."""
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit.file
        assert edit.old != edit.new
    assert [test for test in mutant.tests if not (ROOT / test).exists()] == []


def test_there_are_enough_of_them_and_none_twice() -> None:
    """Names are what ``--only`` takes."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 15
