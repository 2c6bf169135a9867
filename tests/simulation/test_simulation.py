"""A few of the seeds on every test run (others each day), and what makes a failing seed useful."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.simulation.chance import FAULTS, Fault
from tests.simulation.play import Played, play
from tests.simulation.shorten import describe, shorten

_PARTS, _SEEDS = 4, 12
#: Never the same range two days in a row, and the same one for everybody on one day.
_FIRST = 1_000_000 + datetime.now(timezone.utc).date().toordinal() * _PARTS * _SEEDS


@pytest.mark.parametrize("part", range(_PARTS))
def test_every_invariant_holds_whatever_goes_wrong(part: int) -> None:
    """Crashes, pauses, lost stores, messages, answers and callbacks in any order: one end, one effect, nothing left."""
    first = _FIRST + part * _SEEDS
    for seed in range(first, first + _SEEDS):
        played = play(seed)
        if played.failure:
            pytest.fail(describe(shorten(played)), pytrace=False)


def test_a_seed_plays_the_same_twice() -> None:
    """Otherwise a failure could not be repeated."""
    assert play(7).trace == play(7).trace


def test_leaving_faults_out_leaves_the_others_where_they_were() -> None:
    """Each numbered fault is decided on its own: the shortened run is a part of the failing one."""
    injected = play(11).injected
    assert len(injected) > 3
    only = frozenset({injected[0].number})
    assert play(11, only).injected[:1] == injected[:1] and len(play(11, only).injected) == 1


def test_every_kind_of_fault_has_a_place_where_it_happens() -> None:
    """A kind that nothing draws would be a promise without a test."""
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    drawn = set(re.findall(r'fault\("(\w+)"\)', source))
    assert drawn == set(FAULTS)


def test_a_failing_run_is_shortened_to_the_faults_it_needs() -> None:
    """Of thirty faults, the two that break it are left, and the report says how to repeat it."""
    numbers = range(1, 31)

    def again(seed: int, only: frozenset[int]) -> Played:
        return Played(
            seed, failure="broken" if {3, 17} <= only else "",
            injected=[Fault(number, "sql_error") for number in sorted(only)], trace=["a line"],
        )  # fmt: skip

    found = shorten(again(5, frozenset(numbers)), again=again)
    assert [fault.number for fault in found.injected] == [3, 17]
    assert "--seed 5 --only 3,17" in describe(found)
