"""The turn: persistence step by step, waiting, signals, cancel, releases."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Refused, Snooze
from taskflow.engine.pipeline import Step, StepContext
from taskflow.engine.store import Change
from taskflow.errors import PermanentError
from tests.engine.conftest import MakeRig
from tests.support.engine import External, WallClock, advance, toy
from tests.support.keys import assert_no_keys_left


def _wait(name: str = "answer", **kwargs: Any) -> Any:
    def perform(ctx: StepContext) -> Outcome:
        found = ctx.take(name)
        if found is None:
            return AwaitSignal(name, **kwargs)
        return Advance(ctx.next_step, {"answer": dict(found.payload), "at": ctx.now})

    return perform


def _when(checkpoint: str, act: Callable[[], Any]) -> Callable[[str], None]:
    def at(name: str) -> None:
        if name == checkpoint:
            act()

    return at


THREE = toy(Step("one", advance), Step("two", advance), Step("three", advance))


def test_steps_of_one_turn_are_persisted_one_by_one(make_rig: MakeRig) -> None:
    """Many steps run in one turn, yet each has its own rev, event and results when the next one starts."""
    seen: list[tuple[str, int, dict[str, Any]]] = []
    rig = make_rig(THREE)
    run_id = rig.start()

    def look(name: str) -> None:
        if name.startswith("perform:"):
            row = rig.row(run_id)
            seen.append((row.step, row.rev, dict(row.results)))

    rig.runner.checkpoint = look
    assert rig.fire() == "finished"
    assert seen == [
        ("one", 0, {}), ("two", 1, {"one": 1}), ("three", 2, {"one": 1, "two": 1}),
        ("cleanup", 3, {"one": 1, "two": 1, "three": 1}),
    ]  # fmt: skip
    assert rig.events(run_id) == [
        ("step_entered", "two"), ("step_entered", "three"), ("step_entered", "cleanup"), ("run_finished", "cleanup"),
    ]  # fmt: skip
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def test_a_budget_of_one_step_is_one_alarm_per_step(make_rig: MakeRig) -> None:
    """With TURN_MAX_STEPS=1 every step is a hint of its own."""
    rig = make_rig(THREE)
    rig.configure(turn_max_steps=1)
    run_id = rig.start()
    assert rig.run_alarms() == 4
    assert [alarm.name for alarm in rig.hints.published] == ["toy.one", "toy.two", "toy.three", "toy.cleanup"]
    assert rig.row(run_id).finished_at is not None


@pytest.mark.parametrize(("took", "told"), [(0.0, []), (0.2, ["committed:three"]), (0.3, ["committed:two"])])
def test_a_turn_tells_redis_before_its_lease_grows_old(make_rig: MakeRig, took: float, told: list[str]) -> None:
    """Steps are not told one by one, but the lease is extended when a quarter of it is over (``took``: part, each step)."""
    seen: list[str] = []

    def slow(ctx: StepContext) -> Outcome:
        rig.shift(took * rig.settings.lease_s)
        return advance(ctx)

    rig = make_rig(toy(Step("one", slow), Step("two", slow), Step("three", advance)))
    run_id = rig.start()

    def look(name: str) -> None:
        seen.append(name)
        if name.startswith("committed:"):
            assert rig.state(run_id)["state"]["rev"] == str(rig.row(run_id).rev)

    rig.runner.checkpoint = look
    assert rig.fire() == "finished"
    assert [name for name in seen if name.startswith("committed:")][:1] == told


def test_a_guarded_step_is_told_before_it_is_performed(make_rig: MakeRig) -> None:
    """Who cancels or rings until then is heard before anything is bought."""
    seen: list[str] = []
    rig = make_rig(toy(Step("one", advance), Step("buy", advance, guarded=True)))
    rig.start()
    rig.runner.checkpoint = seen.append
    assert rig.fire() == "finished"
    assert seen.index("applied:one") < seen.index("committed:buy") < seen.index("perform:buy")


def test_a_turn_starts_no_step_after_its_seconds(make_rig: MakeRig) -> None:
    """The budget in seconds hands the run over, and the next step is rung at once."""

    def slow(ctx: StepContext) -> Outcome:
        rig.shift(0.6)
        return advance(ctx)

    rig = make_rig(toy(Step("one", slow), Step("two", slow), Step("three", slow)))
    rig.configure(turn_max_s=1.0)
    run_id = rig.start()
    assert rig.fire() == "parked"
    assert rig.row(run_id).step == "three" and len(rig.hints.alarms) == 1


def test_a_snooze_writes_nothing_to_sql(make_rig: MakeRig) -> None:
    """A poll is one read: no transaction writes, the row stays as it was."""
    polls: list[float] = []

    def poll(ctx: StepContext) -> Outcome:
        polls.append(ctx.now)
        return Snooze(7.0) if len(polls) < 4 else advance(ctx)

    rig = make_rig(toy(Step("poll", poll)))
    run_id = rig.start()
    before, statements = rig.row(run_id), []
    event.listen(
        rig.database.engine, "before_cursor_execute", lambda c, cu, statement, *rest: statements.append(statement)
    )
    for _ in range(3):
        assert rig.fire() == "parked"
    assert rig.row(run_id) == before
    assert {statement.split()[0] for statement in statements} <= {"SELECT", "BEGIN"}
    assert [round(b - a) for a, b in itertools.pairwise(polls)] == [7, 7]


@pytest.mark.parametrize("when", ["early", "parked", "running"])
def test_a_signal_is_found_whenever_it_comes(make_rig: MakeRig, when: str) -> None:
    """Before the step, while it is awaited, or while its turn runs: the next step has its payload at once."""
    rig = make_rig(toy(Step("first", advance), Step("wait", _wait())))
    run_id = rig.start()
    began = rig.clock.now()
    if when == "early":
        rig.signal(run_id, "answer", {"n": 1})
    elif when == "running":
        rig.runner.checkpoint = _when("applied:wait", lambda: rig.signal(run_id, "answer", {"n": 1}))
    rig.run_alarms(until=lambda: when == "parked" and not rig.hints.alarms)
    if when == "parked":
        assert rig.row(run_id).awaiting == "answer"
        rig.signal(run_id, "answer", {"n": 1})
        rig.run_alarms()
    row = rig.row(run_id)
    assert row.finished_at is not None and row.results["answer"] == {"n": 1}
    assert row.results["at"] - began < 1


def test_the_first_signal_wins_and_a_consumed_one_stays_consumed(make_rig: MakeRig) -> None:
    """A duplicate changes nothing; a second wait for the same name is not fed the first answer again."""
    rig = make_rig(toy(Step("a", _wait()), Step("b", _wait())))
    run_id = rig.start()
    assert rig.signal(run_id, "answer", {"n": 1}, subject="1")
    assert not rig.signal(run_id, "answer", {"n": 2}, subject="1")
    rig.run_alarms(until=lambda: not rig.hints.alarms)
    assert (rig.row(run_id).step, rig.row(run_id).awaiting) == ("b", "answer")
    assert rig.row(run_id).results["answer"] == {"n": 1}
    assert rig.signal(run_id, "answer", {"n": 3}, subject="2")
    rig.run_alarms()
    assert rig.row(run_id).results["answer"] == {"n": 3}
    rig.signal(run_id, "answer", {"n": 4}, subject="3")
    rig.run_alarms()
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def test_a_wait_past_its_deadline_fails_naming_what_was_awaited(make_rig: MakeRig) -> None:
    """The default end of a wait says the signal, since when and until when."""
    rig = make_rig(toy(Step("wait", _wait(), limit_s=300)))
    began = rig.clock.now()
    run_id = rig.start()
    rig.run_alarms()
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "step_timeout"
    assert error["detail"]["awaited"] == "answer" and error["detail"]["until"] == pytest.approx(began + 300, abs=0.1)
    assert rig.clock.now() - began == pytest.approx(300, abs=3)


@pytest.mark.parametrize("outcome", [Snooze(3600.0), AwaitSignal("answer", poll_s=3600.0), AwaitSignal("answer")])
def test_no_wait_sleeps_past_the_deadline_of_its_step(make_rig: MakeRig, outcome: Outcome) -> None:
    """However long a step wants to sleep, ``expired`` is asked when the deadline passes."""
    expired: list[float] = []

    def on_expired(ctx: StepContext) -> Outcome:
        expired.append(ctx.now)
        return Advance("cleanup")

    rig = make_rig(toy(Step("wait", lambda ctx: outcome, limit_s=100, expired=on_expired)))
    began = rig.clock.now()
    rig.start()
    rig.run_alarms()
    assert expired and 100 <= expired[0] - began < 103


class _WrongClock(WallClock):
    def __init__(self, off_s: float) -> None:
        self.off_s = off_s

    def now(self) -> float:
        return super().now() + self.off_s


@pytest.mark.parametrize("off_s", [-7200.0, 7200.0])
def test_the_clock_of_its_host_decides_nothing(make_rig: MakeRig, off_s: float) -> None:
    """Two hours wrong, a worker gives a wait the minute it has by Redis time, no less and no more."""
    rig = make_rig(toy(Step("first", advance), Step("wait", _wait(poll_s=10.0), limit_s=60.0)))
    rig.runner._clock = _WrongClock(off_s)
    run_id = rig.start()
    entered_at = rig.control.now()
    rig.run_alarms(until=lambda: rig.control.now() > entered_at + 45)
    assert rig.row(run_id).finished_at is None
    rig.run_alarms()
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "step_timeout"
    assert error["detail"]["until"] == pytest.approx(entered_at + 60, abs=1)


@pytest.mark.parametrize("race", ["before_load", "after_load"])
def test_a_cancel_keeps_a_guarded_step_from_being_entered(make_rig: MakeRig, race: str) -> None:
    """Asked for before the apply, even unseen by the turn, nothing is bought and the run is cancelled, reason kept."""
    external = External()

    def buy(ctx: StepContext) -> Outcome:
        external.do("buy")
        return advance(ctx)

    rig = make_rig(toy(Step("one", advance), Step("buy", buy, guarded=True)))
    run_id = rig.start()
    if race == "before_load":
        rig.cancel(run_id, "too dear")
    else:
        rig.runner.checkpoint = _when("performed:one", lambda: rig.cancel(run_id, "too dear", ring=False))
    rig.run_alarms()
    row = rig.row(run_id)
    assert external.calls == {} and row.results == {"cancelled": True} | ({"one": 1} if "one" in row.results else {})
    assert row.finished_at is not None and row.cancel_reason == "too dear"
    assert "buy" not in [step for _, step in rig.events(run_id)]


def test_a_cancel_reason_reaches_on_cancel_on_the_guarded_path(make_rig: MakeRig) -> None:
    """A cancel that the apply discovers is handed to ``on_cancel`` with its reason."""
    reasons: list[str | None] = []

    def on_cancel(ctx: StepContext) -> Outcome:
        reasons.append(ctx.run.cancel_reason)
        return Advance("cleanup")

    rig = make_rig(toy(Step("one", advance), Step("buy", advance, guarded=True), on_cancel=on_cancel))
    run_id = rig.start()
    rig.runner.checkpoint = _when("performed:one", lambda: rig.cancel(run_id, "why", ring=False))
    rig.run_alarms()
    assert reasons == ["why"]


def test_a_cancel_in_a_closing_step_changes_nothing(make_rig: MakeRig) -> None:
    """Cleanup runs to its end; on_cancel is not asked."""
    turns: list[str] = []

    def cleanup(ctx: StepContext) -> Outcome:
        turns.append(ctx.run.step)
        return Snooze(3.0) if len(turns) < 3 else Done({"clean": True})

    rig = make_rig(toy(Step("one", advance), Step("cleanup", cleanup)))
    run_id = rig.start()
    rig.fire()
    rig.cancel(run_id)
    rig.run_alarms()
    assert len(turns) == 3 and rig.result(run_id) == {"clean": True} and "cancelled" not in rig.row(run_id).results


@pytest.mark.parametrize("otherwise", [None, Advance("cleanup", {"other": 1})])
def test_a_refused_effect_rolls_back_and_takes_the_other_way(make_rig: MakeRig, otherwise: Outcome | None) -> None:
    """Refused: nothing of that apply is there; ``otherwise`` is taken, without one the step fails."""

    def refuse(tx: Any) -> None:
        raise Refused("full")

    step = Step("one", lambda ctx: Advance("two", {"lost": 1}, effects=(refuse,), otherwise=otherwise))
    rig = make_rig(toy(step, Step("two", advance)))
    run_id = rig.start()
    rig.run_alarms()
    row = rig.row(run_id)
    assert "lost" not in row.results and ("step_entered", "two") not in rig.events(run_id)
    if otherwise is None:
        assert row.error is not None and row.error["code"] == "refused"
    else:
        assert row.error is None and row.results == {"other": 1}


def test_state_of_a_newer_release_is_left_to_its_workers(make_rig: MakeRig) -> None:
    """An older worker defers the run without writing; a newer one finishes it."""
    rig = make_rig(toy(Step("one", advance), version=2))
    run_id = rig.start()
    before = rig.row(run_id)
    old = rig.worker(pipelines=[toy(Step("one", advance), version=1)])
    for _ in range(3):
        assert rig.fire(old) == "parked"
    assert rig.row(run_id) == before and rig.errors(run_id) == []
    rig.run_alarms()
    assert rig.row(run_id).error is None and rig.row(run_id).finished_at is not None


def test_an_unknown_step_fails_saying_so(make_rig: MakeRig) -> None:
    """A row that names a step the table lacks is a clear failure, not a loop."""
    rig = make_rig(THREE)
    run_id = rig.start(step="gone")
    rig.run_alarms()
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "unknown_step" and "gone" in error["message"]


def test_a_signal_that_comes_while_its_step_gives_up_is_taken_not_lost(make_rig: MakeRig) -> None:
    """Its sender has been told that it counts: the failure is not applied, the step decides again."""
    looks = 0

    def give_up(ctx: StepContext) -> Outcome:
        nonlocal looks
        looks += 1
        if ctx.take("answer") is not None:
            return Advance(ctx.next_step, {"answered": True})
        rig.record(ctx.run.id, "answer", {"n": 1})  # by another process, after this turn read the signals
        raise PermanentError("nobody answered")

    rig = make_rig(toy(Step("wait", give_up)))
    run_id = rig.start()
    assert rig.fire() == "finished"
    assert looks == 2 and rig.row(run_id).results == {"answered": True} and rig.row(run_id).error is None


def test_a_superseded_turn_hands_over_at_once(make_rig: MakeRig) -> None:
    """Somebody else wrote the row: the turn changes nothing and rings, nobody waits for its lease."""
    rig = make_rig(THREE)
    run_id = rig.start()

    def meddle(name: str) -> None:
        if name == "performed:one" and rig.row(run_id).rev == 0:
            rig.store.apply(rig.row(run_id), Change("three", rig.clock.now(), entered=True, deadline_at=None))

    rig.runner.checkpoint = meddle
    assert rig.fire() == "superseded"
    assert rig.row(run_id).step == "three" and rig.row(run_id).results == {}
    assert rig.state(run_id)["lease"] is None
    assert [(alarm.countdown_s, alarm.name) for alarm in rig.hints.alarms] == [(0.0, "toy.one")]
    rig.run_alarms()
    assert rig.row(run_id).results == {"three": 1}


def test_a_signal_for_lost_control_state_revives_the_parked_run_at_once(make_rig: MakeRig) -> None:
    """Redis is emptied while a run is parked for hours; its signal brings it back without the rescue."""
    rig = make_rig(toy(Step("wait", _wait(), limit_s=7200)))
    run_id = rig.start()
    rig.fire()
    rig.client.flushall()
    began = rig.clock.now()
    rig.signal(run_id, "answer", {"n": 1})
    rig.run_alarms()
    assert rig.row(run_id).results["answer"] == {"n": 1} and rig.clock.now() - began < 1


def test_a_signal_that_came_in_time_counts_however_late_it_is_looked_at(make_rig: MakeRig) -> None:
    """No worker was there when the deadline passed; a signal that came after it does not count."""
    rig = make_rig(toy(Step("wait", _wait(), limit_s=60.0)))
    in_time, late = rig.start(), rig.start()
    rig.run_alarms(until=lambda: all(rig.row(run_id).awaiting for run_id in (in_time, late)))
    rig.shift(30.0)
    rig.record(in_time, "answer", {"n": 1})
    rig.shift(60.0)
    rig.record(late, "answer", {"n": 2})
    rig.run_alarms()
    assert rig.row(in_time).results["answer"] == {"n": 1}
    assert rig.row(in_time).error is None
    assert (rig.row(late).error or {})["code"] == "step_timeout"
