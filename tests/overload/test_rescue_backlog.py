"""A backlog that takes longer than the rescue's interval: rescues neither lengthen it nor send anybody to its end."""

from __future__ import annotations

from taskflow.engine.outcomes import AwaitSignal, Outcome
from taskflow.engine.pipeline import Step, StepContext
from tests.overload.conftest import MakeRig
from tests.support.engine import advance, toy

RUNS, RESCUES = 20, 6


def _await(ctx: StepContext) -> Outcome:
    return advance(ctx) if ctx.take("news") is not None else AwaitSignal("news")


def test_rescues_do_not_multiply_the_hints_of_runs_whose_signal_waits(make_rig: MakeRig) -> None:
    """Their signals are recorded, their hints wait behind others: each rescue finds them, none rings them again."""
    rig = make_rig(toy(Step("one", _await)))
    runs = [rig.start() for _ in range(RUNS)]
    while rig.hints.alarms:
        rig.fire()
    for run in runs:
        rig.signal(run, "news")
    queued = list(rig.hints.alarms)
    assert len(queued) == RUNS
    for _ in range(RESCUES):
        rig.shift(rig.settings.rescue_interval_s)
        rig.rescue.page()
    assert rig.hints.alarms == queued
    # The first hints are still the ones that count: nobody's place in the queue was lost.
    assert [rig.fire() for _ in range(RUNS)] == ["finished"] * RUNS


def test_a_callback_that_is_repeated_keeps_the_runs_place(make_rig: MakeRig) -> None:
    """Each repeat rings again, because the first ring may be lost, and none makes the hint that waits a stale one."""
    rig = make_rig(toy(Step("one", _await)))
    run = rig.start()
    while rig.hints.alarms:
        rig.fire()
    for _ in range(3):
        rig.signal(run, "news")
        rig.shift(0.01)
    assert len(rig.hints.alarms) == 3
    assert rig.fire() == "finished"
    assert {rig.fire(), rig.fire()} == {"missing"}


def test_a_rescue_still_rings_a_run_that_nobody_rang(make_rig: MakeRig) -> None:
    """The signal was recorded and its process died before it rang: that is what the rescue is for."""
    rig = make_rig(toy(Step("one", _await)))
    run = rig.start()
    while rig.hints.alarms:
        rig.fire()
    rig.record(run, "news")
    assert rig.rescue.page().rung == 1
    assert rig.fire() == "finished"
