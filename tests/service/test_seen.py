"""What was noted lately is not noted again."""

from __future__ import annotations

from taskflow.clock import ManualClock
from taskflow.service import seen
from taskflow.service.seen import Seen


def test_a_key_is_due_once_in_its_time(manual_clock: ManualClock) -> None:
    """Each key by itself."""
    noted = Seen(manual_clock, 60.0)
    assert [noted.is_due("a"), noted.is_due("a"), noted.is_due("b")] == [True, False, True]
    manual_clock.advance(59.9)
    assert not noted.is_due("a")
    manual_clock.advance(0.1)
    assert noted.is_due("a")


def test_what_is_remembered_is_bounded(manual_clock: ManualClock) -> None:
    """Keys that were not seen for the time are forgotten when there are many."""
    noted = Seen(manual_clock, 60.0)
    for number in range(seen.KEPT):
        noted.is_due(str(number))
    manual_clock.advance(60)
    noted.is_due("new")
    assert len(noted) == 1
