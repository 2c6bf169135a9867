"""The slow backup: lost control state, stale replicas, signals that nobody rang, keys that nobody needs."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from sqlalchemy import update

from taskflow.db.models import Run
from taskflow.db.runs import record_signal
from taskflow.engine.outcomes import Advance, AwaitSignal, Outcome
from taskflow.engine.pipeline import Step, StepContext
from taskflow.engine.rescue import Rescue, Watch
from taskflow.ids import RunId
from tests.engine.conftest import MakeRig
from tests.support.engine import Rig, SimulatedCrash, advance, toy
from tests.support.keys import assert_no_keys_left, keys_left


def _wait(ctx: StepContext) -> Outcome:
    return AwaitSignal("answer") if ctx.take("answer") is None else Advance(ctx.next_step)


WAITING = toy(Step("one", advance), Step("wait", _wait, limit_s=3600))


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig whose run waits for an answer."""
    return make_rig(WAITING)


def _parked(rig: Rig) -> RunId:
    run_id = rig.start()
    rig.run_alarms(until=lambda: not rig.hints.alarms)
    assert rig.row(run_id).awaiting == "answer"
    return run_id


def test_an_emptied_store_is_seen_and_everything_reconciled(rig: Rig) -> None:
    """The next pump tick of any worker rebuilds all open runs and only then tells SQL the new incarnation."""
    runs = [_parked(rig) for _ in range(5)]
    assert rig.watch.saw(rig.control.pump(10))
    assert not rig.watch.saw(rig.control.pump(10))
    before = rig.store.incarnations()
    rig.client.flushall()
    assert rig.watch.saw(rig.control.pump(10))
    assert all(rig.state(run_id)["state"]["step"] == "wait" for run_id in runs)
    after = rig.store.incarnations()
    assert set(after) == set(before) and all(after[shard] != before[shard] for shard in after)
    assert not rig.watch.saw(rig.control.pump(10))


@pytest.mark.parametrize("why", ["unknown", "newer"])
def test_runs_that_nobody_takes_up_do_not_stand_before_others(rig: Rig, why: str) -> None:
    """However many of them have their answer, or are cancelled: the rescue rings one whose wake-up was lost."""
    rig.watch.saw(rig.control.pump(10))
    parked = [_parked(rig) for _ in range(4)]
    waiting = _parked(rig)
    values = {"pipeline": "gone"} if why == "unknown" else {"version": 2}
    with rig.database.engine.begin() as tx:
        tx.execute(update(Run).where(Run.id.in_(parked)).values(**values))
        tx.execute(update(Run).where(Run.id.in_(parked[:2])).values(cancel_requested_at=1.0))
        for run_id in (*parked[2:], waiting):
            record_signal(tx, run_id, "answer", "", {}, now=1.0)
    assert Rescue(rig.store, rig.control, rig.ringer, page=2).page().rung == 1
    rig.run_alarms(until=lambda: rig.row(waiting).finished_at is not None)


def test_another_server_with_the_same_data_is_reconciled(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover keeps the incarnation but changes the server's run id; leftovers of ended runs are deleted."""
    rig.watch.saw(rig.control.pump(10))
    run_id = _parked(rig)
    stale = rig.client.dump(rig.control.run_key(run_id))
    rig.signal(run_id, "answer")
    rig.run_alarms()
    rig.client.restore(rig.control.run_key(run_id), 0, stale)  # type: ignore[arg-type]
    monkeypatch.setattr(rig.control, "server_run_id", lambda: "another")
    rig.shift(Watch.SERVER_CHECK_S)
    assert rig.watch.saw(rig.control.pump(10))
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def test_a_stale_replica_is_rebuilt_from_the_row(rig: Rig) -> None:
    """Older hashes than SQL's rows are replaced, at the row's step and wake-up time."""
    run_id = rig.start()
    key, index = rig.control.run_key(run_id), rig.control.alarms_key(rig.control.shard_of(run_id))
    stale = rig.client.dump(key)
    rig.run_alarms(until=lambda: not rig.hints.alarms)
    rig.client.restore(key, 0, stale, replace=True)  # type: ignore[arg-type]
    rig.client.zadd(index, {run_id: rig.clock.now() + 3000})
    rig.rescue.page()
    state = rig.state(run_id)["state"]
    assert (state["step"], state["rev"]) == ("wait", str(rig.row(run_id).rev))
    assert float(state["due"]) == pytest.approx(rig.row(run_id).wake_at, abs=1e-3)


def test_a_parked_run_is_not_run_early_after_a_rebuild(rig: Rig) -> None:
    """``wake_at`` survives: far away, only indexed; past, fired at once."""
    run_id = _parked(rig)
    wake_at = rig.row(run_id).wake_at
    assert wake_at is not None
    rig.client.flushall()
    rig.rescue.page()
    assert rig.hints.alarms == [] and rig.pump.tick() == 0
    rig.run_alarms(until=lambda: rig.row(run_id).step != "wait" or rig.clock.now() > wake_at + 60)
    assert wake_at <= rig.clock.now() < wake_at + 5
    past = rig.start()
    rig.run_alarms(until=lambda: not rig.hints.alarms)
    rig.client.flushall()
    rig.shift(4000)
    rig.rescue.page()
    assert [alarm.countdown_s for alarm in rig.hints.alarms if alarm.run_id == past] == [0.0]


@pytest.mark.parametrize("method", ["sweep_keys", "page"])
def test_a_crash_in_a_reconcile_makes_the_next_process_repeat_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """SQL is told last: what died before that is done again by anybody's next tick."""
    _parked(rig)
    rig.watch.saw(rig.control.pump(10))
    rig.client.flushall()

    def die(*args: Any) -> Any:
        raise SimulatedCrash

    with monkeypatch.context() as patch:
        patch.setattr(rig.rescue, method, die)
        with pytest.raises(SimulatedCrash):
            rig.watch.saw(rig.control.pump(10))
    another = Watch(rig.rescue, rig.store, rig.control, rig.clock)
    assert another.saw(rig.control.pump(10))
    assert not another.saw(rig.control.pump(10))


def test_a_store_emptied_during_a_reconcile_is_reconciled_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was rebuilt before the second loss counts for nothing: the next tick does all of it again."""
    run_id = _parked(rig)
    real = rig.rescue.sweep_keys
    times: list[int] = []

    def flush_once(shard: int) -> int:
        if not times:
            rig.client.flushall()
        times.append(shard)
        return real(shard)

    monkeypatch.setattr(rig.rescue, "sweep_keys", flush_once)
    assert rig.watch.saw(rig.control.pump(10))
    assert rig.state(run_id)["state"] == {}
    assert rig.watch.saw(rig.control.pump(10))
    assert rig.state(run_id)["state"]["step"] == "wait"
    assert not rig.watch.saw(rig.control.pump(10))


def test_a_signal_recorded_while_redis_was_down_is_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is stored, the ring fails quietly, the next page of the rescue rings."""
    run_id = _parked(rig)

    def away(*args: Any, **kwargs: Any) -> Any:
        raise redis.ConnectionError("down")

    with monkeypatch.context() as patch:
        patch.setattr(rig.control, "signal", away)
        assert rig.signal(run_id, "answer")
    assert rig.hints.alarms == []
    assert rig.rescue.page().rung == 1
    rig.run_alarms()
    assert rig.row(run_id).finished_at is not None


def test_a_cancel_that_nobody_rang_is_found(rig: Rig) -> None:
    """The process that recorded a cancel died before it rang."""
    run_id = _parked(rig)
    rig.cancel(run_id, ring=False)
    rig.rescue.page()
    rig.run_alarms()
    assert rig.row(run_id).results["cancelled"] is True
    assert rig.rescue.page().rung == 0


def test_the_rescue_visits_every_run_page_by_page(rig: Rig) -> None:
    """By cursor, in bounded pages, then from the start again."""
    runs = {rig.insert() for _ in range(23)}
    rescue = Rescue(rig.store, rig.control, rig.ringer, page=5)
    cursor, pages = "", 0
    while True:
        done = rescue.page(cursor)
        assert done.looked_at <= 5
        cursor, pages = done.cursor, pages + 1
        if not cursor:
            break
    assert pages == 5 and {alarm.run_id for alarm in rig.hints.alarms} == runs


def test_keys_of_ended_and_unknown_runs_are_swept(rig: Rig) -> None:
    """Keys that no open row explains go; those of open runs stay."""
    run_id = _parked(rig)
    rig.client.hset(rig.control.run_key("run-unknown"), mapping={"due": "1", "rev": "0"})
    assert sum(rig.rescue.sweep_keys(shard) for shard in range(rig.control.shards)) == 1
    assert [key for key in keys_left(rig.client, rig.settings.key_prefix) if ":run:" in key] == [
        rig.control.run_key(run_id)
    ]
