"""Attempts, bounds, and bugs in steps: each ends as a clear error of the run, and cleanup still runs."""

from __future__ import annotations

import itertools
import math
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import select

from taskflow.db.models import Event
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import LONGEST_S, Step, StepContext
from taskflow.errors import InfrastructureError, PermanentError, TransientError
from tests.engine.conftest import MakeRig
from tests.support.engine import SimulatedCrash, advance, toy
from tests.support.keys import assert_no_keys_left


def _raise(error: Exception) -> Any:
    def perform(ctx: StepContext) -> Outcome:
        raise error

    return perform


def test_transient_errors_are_retried_with_jitter_and_bounded(make_rig: MakeRig) -> None:
    """Each delay lies in [0, min(max, base x 2^n)]; after the last attempt the run fails with that error."""
    rig = make_rig(toy(Step("one", _raise(TransientError("busy", code="busy")))))
    rig.configure(retry_base_s=1.0, retry_max_s=3.0)
    run_id = rig.start()
    rig.run_alarms()
    rows = rig.errors(run_id)
    assert [row.attempt for row in rows] == [1, 2, 3, 4, 5]
    delays = [row.retry_in_s for row in rows]
    assert delays[-1] is None
    assert all(0 <= d <= ceiling for d, ceiling in zip(delays[:-1], (1, 2, 3, 3), strict=True))
    assert len({round(d, 3) for d in delays[:-1]}) > 1
    error = rig.row(run_id).error
    assert error is not None and (error["code"], error["step"]) == ("busy", "one")


def test_retry_after_replaces_the_backoff(make_rig: MakeRig) -> None:
    """What the other side named is waited, no less."""
    times: list[float] = []

    def limited(ctx: StepContext) -> Outcome:
        times.append(ctx.now)
        if ctx.attempt < 3:
            raise TransientError("429", retry_after_s=40.0)
        return advance(ctx)

    rig = make_rig(toy(Step("one", limited)))
    rig.start()
    rig.run_alarms()
    assert [round(b - a) for a, b in itertools.pairwise(times)] == [40, 40]


def test_a_permanent_error_is_not_retried(make_rig: MakeRig) -> None:
    """One attempt, then ``on_failure``."""
    rig = make_rig(toy(Step("one", _raise(PermanentError("no", code="no")))))
    run_id = rig.start()
    rig.run_alarms()
    assert [(row.attempt, row.code) for row in rig.errors(run_id)] == [(1, "no")]


def test_a_bug_in_a_step_is_retried_and_leaves_its_traceback(make_rig: MakeRig) -> None:
    """An unexpected exception is worth some attempts; the errors table names file and line."""
    rig = make_rig(toy(Step("one", _raise(KeyError("oops")))))
    run_id = rig.start()
    rig.run_alarms()
    rows = rig.errors(run_id)
    assert len(rows) == 5 and all(row.code == "unexpected" for row in rows)
    assert "KeyError" in rows[0].error["message"] and __file__ in rows[0].error["detail"]["traceback"]


NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


def _bad_effect(tx: Any) -> None:
    raise ZeroDivisionError("effect")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Advance("cleanup", {"at": NOW}), "result_not_json"),
        (Done({"at": NOW}), "result_not_json"),
        (Advance("cleanup", {"ratio": float("nan")}), "result_not_json"),
        (Done({"most": float("inf")}), "result_not_json"),
        (Advance("cleanup", {"big": "x" * 70_000}), "result_too_large"),
        (Done({"big": "x" * 70_000}), "result_too_large"),
        (Advance("cleanup", effects=(_bad_effect,)), "unexpected"),
        (Advance("cleanup", error={"code": "c", "message": "m", "at": NOW}), "unexpected"),
        (Advance("nowhere"), "unknown_step"),
        (None, "no_decision"),
        ("cleanup", "no_decision"),
    ],
)
def test_a_decision_that_cannot_be_written_fails_the_step(make_rig: MakeRig, outcome: Outcome, code: str) -> None:
    """Neither a value SQL can't hold nor a bug in an effect takes the worker down or loops for ever."""
    rig = make_rig(toy(Step("one", lambda ctx: outcome)))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    error = rig.row(run_id).error
    assert error is not None and error["code"] == code
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def _give_up_badly(ctx: StepContext, error: Any) -> Outcome:
    return Done(error=error.as_dict(), effects=(_bad_effect,))


@pytest.mark.parametrize(
    ("on_failure", "code"),
    [
        (_give_up_badly, "unexpected"),
        (lambda ctx, error: _raise(KeyError("gone"))(ctx), "unexpected"),
        (lambda ctx, error: None, "unexpected"),
        (lambda ctx, error: _raise(PermanentError("never", code="never"))(ctx), "never"),
        (lambda ctx, error: Advance("nowhere"), "no_decision_applies"),
    ],
)
def test_who_can_not_be_given_up_is_tried_ever_more_rarely_until_that_is_mended(
    make_rig: MakeRig, on_failure: Any, code: str
) -> None:
    """A bug in what ends a run neither loses the run nor keeps the workers busy with it; a mended release ends it."""
    failing = Step("one", _raise(PermanentError("no", code="no")))
    rig = make_rig(toy(failing, on_failure=on_failure))
    rig.configure(retry_base_s=1.0, retry_max_s=60.0)
    run_id, began = rig.start(), rig.clock.now()
    rig.run_alarms(until=lambda: rig.clock.now() > began + 3600)
    rows = rig.errors(run_id)
    assert rig.row(run_id).finished_at is None and rows[-1].code == code
    starts = {row.attempt for row in rows}
    assert 60 < len(starts) < 200, "about every half minute in the end"
    assert rows[-1].retry_in_s is not None and len(rows) <= 7 * len(starts)
    rig.pipelines["toy"] = toy(failing)
    rig.run_alarms()
    run = rig.row(run_id)
    assert run.finished_at is not None and run.error is not None and run.error["code"] == "no"
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def test_an_error_with_a_detail_that_is_not_json_is_recorded_all_the_same(make_rig: MakeRig) -> None:
    """The record of a failure is not what fails, and its run ends with the cause."""
    detail: dict[Any, Any] = {"at": NOW, "ratio": float("nan"), (1, 2): "a pair"}
    rig = make_rig(toy(Step("one", _raise(PermanentError("no", code="no", detail=detail)))))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    (row,), run = rig.errors(run_id), rig.row(run_id)
    assert run.finished_at is not None and run.error is not None
    for error in (row.error, run.error):
        assert (error["code"], error["detail"]) == ("no", {"at": str(NOW), "ratio": "NaN"})


def _die(name: str) -> None:
    if name == "perform:poison":
        raise SimulatedCrash(name)


@pytest.mark.parametrize("first_crash", ["perform:poison", "applied:one"])
def test_a_step_that_kills_its_worker_is_counted_out(make_rig: MakeRig, first_crash: str) -> None:
    """Also when the first death came between apply and commit; others go on, and cleanup runs."""
    crashes: list[str] = []

    def die(name: str) -> None:
        if name == "perform:poison" or (name == first_crash and not crashes):
            crashes.append(name)
            raise SimulatedCrash(name)

    rig = make_rig(toy(Step("one", advance), Step("poison", advance)), toy(Step("one", advance), name="well"))
    rig.configure(step_max_crashes=3)
    rig.runner.checkpoint = die
    run_id, other = rig.start(), rig.start("well")
    for _ in range(60):
        try:
            rig.run_alarms()
            break
        except SimulatedCrash:
            continue
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "step_crashes"
    assert len(crashes) == 3
    assert rig.row(other).error is None and rig.row(other).finished_at is not None
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


@pytest.mark.parametrize("turn_max_steps", [1, 50])
def test_a_step_that_never_ends_is_counted_out(make_rig: MakeRig, turn_max_steps: int) -> None:
    """Begun as often as the bound allows, within turns or across them, it is a loop, said so on the run."""
    begun: list[int] = []

    def loop(ctx: StepContext) -> Outcome:
        begun.append(ctx.attempt)
        return Snooze(0.0)

    rig = make_rig(toy(Step("one", loop)))
    rig.configure(step_max_fires=120, turn_max_steps=turn_max_steps)
    run_id = rig.start()
    rig.run_alarms()
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "step_loops" and len(begun) == 120


def test_an_inbox_over_its_bound_fails_the_step_but_not_the_cleanup(make_rig: MakeRig) -> None:
    """Too many signals are an error of the run; its cleanup is still done."""
    cleaned: list[str] = []

    def cleanup(ctx: StepContext) -> Outcome:
        cleaned.append(ctx.run.id)
        return Done()

    rig = make_rig(toy(Step("one", lambda ctx: AwaitSignal("never")), Step("cleanup", cleanup)))
    rig.configure(inbox_max=5)
    run_id = rig.start()
    for number in range(6):
        rig.record(run_id, "noise", subject=str(number))
    rig.run_alarms()
    error = rig.row(run_id).error
    assert error is not None and error["code"] == "inbox_full" and cleaned == [run_id]


def test_a_database_that_is_away_costs_only_time(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn hands over for a later try, attempts are not used up."""
    rig = make_rig(toy(Step("one", advance)))
    run_id = rig.start()
    real, left = rig.store.apply, [3]

    def apply(*args: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise InfrastructureError("the database failed")
        return real(*args)

    monkeypatch.setattr(rig.store, "apply", apply)
    assert [rig.fire() for _ in range(3)] == ["store_unusable"] * 3
    rig.run_alarms()
    assert rig.row(run_id).results == {"one": 1} and rig.errors(run_id) == []


def test_a_hung_step_loses_its_lease_and_is_reported(make_rig: MakeRig) -> None:
    """Renewed until its timeout, then let go, and the process told to go once the lease must be over."""
    rig = make_rig(toy(Step("one", advance, timeout_s=3.0)))
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    with rig.renewer.hold(run_id, "t", 3.0, "one"):
        for _ in range(5):
            rig.shift(0.5)
            rig.renewer.renew_once()
            assert rig.state(run_id)["lease"] == "t" and rig.hung == []
        rig.shift(0.6)
        rig.renewer.renew_once()
        rig.shift(1.0)
        rig.renewer.renew_once()
        assert rig.state(run_id)["lease"] is None and rig.hung == ["one"]


@pytest.mark.parametrize("how", ["flushed", "taken"])
def test_a_guarded_step_is_not_performed_without_its_lease(make_rig: MakeRig, how: str) -> None:
    """A worker that was paused past its lease just before it buys something finds out and does not buy."""
    bought: list[int] = []

    def buy(ctx: StepContext) -> Outcome:
        bought.append(ctx.run.rev)
        return advance(ctx)

    rig = make_rig(toy(Step("one", advance), Step("buy", buy, guarded=True)))
    run_id = rig.start()

    def pause(name: str) -> None:
        if name == "committed:buy" and not bought:
            paused.checkpoint = lambda name: None
            if how == "flushed":
                rig.client.flushall()
            else:
                rig.shift(rig.settings.lease_s + 0.01)
                assert rig.control.fire(run_id, "", "another").verdict == "go"

    paused = rig.worker()
    paused.checkpoint = pause
    rig.fire(paused)
    assert bought == []
    rig.run_alarms(rescue=True)
    assert len(bought) == 1 and rig.row(run_id).finished_at is not None


@pytest.mark.parametrize(
    "error",
    [
        TransientError(
            "at postgresql://u:hunter2@db/x", code="busy", detail={"token": "hunter2", "deep": ["redis://:hunter2@h"]}
        ),
        PermanentError("Bearer hunter2-and-more was refused", code="no", advice="not redis://:hunter2@h"),
        ValueError("redis://:hunter2@h/0"),
    ],
    ids=["transient", "permanent", "bug"],
)
def test_no_secret_of_an_error_is_stored(make_rig: MakeRig, error: Exception) -> None:
    """Neither with its attempt, nor with the run, nor in the history; what else it says stays."""
    rig = make_rig(toy(Step("one", _raise(error), max_attempts=2)))
    run_id = rig.start()
    rig.run_alarms()
    with rig.database.read() as tx:
        history = list(tx.execute(select(Event.data)).scalars())
    stored = [str(row.error) for row in rig.errors(run_id)] + [str(rig.row(run_id).error)]
    assert "hunter2" not in f"{stored} {history}"
    assert len(stored) >= 2
    assert all("***" in text for text in stored)


def test_no_secret_of_a_decision_is_stored(make_rig: MakeRig) -> None:
    """A step may end its run with an error of its own making."""
    said = {"code": "no", "message": "at redis://:hunter2@h/0", "password": "hunter2"}
    rig = make_rig(toy(Step("one", lambda ctx: Done(error=said))))
    run_id = rig.start()
    rig.run_alarms()
    assert rig.row(run_id).error == {"code": "no", "message": "at redis://:***@h/0", "password": "***"}


@pytest.mark.parametrize(
    "outcome",
    [
        Snooze(math.inf), Snooze(1e30), Snooze(math.nan), Snooze(-1e30), AwaitSignal("never", poll_s=math.inf),
        TransientError("busy", retry_after_s=math.inf),
    ],
    ids=repr,
)  # fmt: skip
def test_no_run_is_put_off_for_ever(make_rig: MakeRig, outcome: Any) -> None:
    """Whatever length of time a step, or who told it to wait, says: it is due some day."""

    def once(ctx: StepContext) -> Outcome:
        if ctx.fires > 1:
            return Done()
        if isinstance(outcome, Exception):
            raise outcome
        decided: Outcome = outcome
        return decided

    rig = make_rig(toy(Step("one", once)))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    row = rig.row(run_id)
    assert row.finished_at is not None and row.error is None
    assert row.finished_at - row.step_entered_at <= LONGEST_S + 60


@pytest.mark.parametrize(
    "decide",
    [(Snooze, "5"), (Snooze, None), (AwaitSignal, None), (AwaitSignal, "n" * 65), (AwaitSignal, "go", "5")],
    ids=repr,
)
def test_a_decision_of_the_wrong_kind_fails_where_it_is_made(make_rig: MakeRig, decide: Any) -> None:
    """With the step's own line in the error, instead of as a worker that died again and again."""
    rig = make_rig(toy(Step("one", lambda ctx: decide[0](*decide[1:]), max_attempts=1)))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    error = rig.row(run_id).error
    assert error is not None and (error["code"], error["step"]) == ("unexpected", "one")
    assert error["message"].startswith("TypeError: ") and __file__ in error["detail"]["traceback"]
