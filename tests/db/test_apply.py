"""Applying a change: the same on every database, whichever way it goes."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, select

from taskflow.db.apply import apply_at_once, apply_change
from taskflow.db.events import append_event
from taskflow.db.models import Event, Run, SignalRow
from taskflow.db.runs import RunStore, get_run, record_signal, request_cancel
from taskflow.engine.store import CancelRequested, Change, RunRow, Superseded
from tests.db.conftest import OWNER, World
from tests.support.waiting import wait_until

ADVANCE = Change("cleanup", 2.0, entered=True, deadline_at=9.0, results={"exit_code": 0}, reason="it ended")
CHANGES = {
    "advance": ADVANCE,
    "without results": Change("cleanup", 2.0, entered=True, deadline_at=None),
    "guarded": replace(ADVANCE, guarded=True),
    "park": Change("running", 2.0, entered=False, deadline_at=9.0, awaiting="outcome", wake_at=7.5),
    "done": Change("running", 2.0, entered=False, deadline_at=None, finished=True, result={"commit": "c0ffee"}),
    "consume": replace(ADVANCE, consumed=(1, 2)),
    "consume and park": replace(ADVANCE, entered=False, step="running", awaiting="next", consumed=(1, 2)),
}


def _left(world: World, run_id: str) -> Any:
    """What of a run is in the database, without what tells one run from another."""
    with world.database.read() as tx:
        row = dict(tx.execute(select(Run.__table__).where(Run.id == run_id)).one()._mapping)
        events = tx.execute(select(Event.__table__).where(Event.run_id == run_id).order_by(Event.seq)).all()
        signals = tx.execute(select(SignalRow.name, SignalRow.consumed_at).where(SignalRow.run_id == run_id)).all()
    del row["id"], row["subject_id"]
    kept = ("owner_id", "seq", "kind", "step", "actor", "data", "at")
    return row, [{name: one._mapping[name] for name in kept} for one in events], sorted(map(tuple, signals))


def _prepared(world: World, name: str) -> RunRow:
    run = world.run(name, f"task-{name}")
    for signal in ("ready", "outcome", "late"):
        world.write(partial(record_signal, run_id=name, name=signal, subject="s", payload={}, now=1.5))
    return run


def _with_ids(world: World, run: RunRow, change: Change) -> Change:
    """The first signals of this very run are those that the change consumes."""
    with world.database.read() as tx:
        ids = tx.scalars(select(SignalRow.id).where(SignalRow.run_id == run.id).order_by(SignalRow.id)).all()
    return replace(change, consumed=tuple(ids[: len(change.consumed)]))


def _apply(world: World, run: RunRow, change: Change) -> RunRow:
    return RunStore(world.database, {}).apply(run, change)[0]


@pytest.mark.parametrize("name", CHANGES)
def test_one_statement_leaves_what_the_long_way_leaves(world: World, name: str) -> None:
    """Row, event and consumed signals, and the row that the runner goes on with."""
    long, short = _prepared(world, "long"), _prepared(world, "short")
    change = CHANGES[name]
    there, rings = world.write(lambda tx: apply_change(tx, long, _with_ids(world, long, change)))

    row = _apply(world, short, _with_ids(world, short, change))

    assert _left(world, "short") == _left(world, "long")
    assert row == replace(there, id=short.id, subject_id=short.subject_id)
    assert rings == ()


def test_one_statement_is_what_the_store_sends_where_round_trips_count(world: World) -> None:
    """On PostgreSQL a step is one statement without BEGIN and COMMIT; with effects it is a transaction."""
    run = world.run("run-1", "task-1")
    sent: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    RunStore(world.database, {}).apply(run, ADVANCE)
    if world.database.counts_round_trips:
        assert len(sent) == 1, sent
    else:
        assert [text.split()[0] for text in sent] == ["BEGIN", "UPDATE", "INSERT"]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_cancel_refuses_guarded_changes_only_and_leaves_nothing(world: World, guarded: bool) -> None:
    """Refused: no row, no event, no consumed signal. Not guarded: written, and the row says that it is cancelled."""
    run = _prepared(world, "run-1")
    world.write(lambda tx: request_cancel(tx, "run-1", actor="ada", reason="enough", now=1.7))
    change = replace(_with_ids(world, run, CHANGES["consume"]), guarded=guarded)
    before = _left(world, "run-1")
    if guarded:
        with pytest.raises(CancelRequested):
            _apply(world, run, change)
        assert _left(world, "run-1") == before
    else:
        row = _apply(world, run, change)
        assert (row.cancel_requested_at, row.cancel_reason) == (1.7, "enough")


def test_whoever_lost_the_fence_writes_nothing(world: World) -> None:
    """Another rev, a finished run, a run that is gone: superseded, no event, no consumed signal."""
    run = _prepared(world, "run-1")
    change = _with_ids(world, run, CHANGES["consume"])
    _apply(world, run, CHANGES["done"])
    before = _left(world, "run-1")
    for one in (run, replace(run, rev=1), replace(run, id=type(run.id)("nobody"))):
        with pytest.raises(Superseded):
            _apply(world, one, change)
    assert _left(world, "run-1") == before


def test_what_must_look_under_the_lock_goes_the_long_way(world: World) -> None:
    """Effects need a transaction; a failure must not pass over a signal that came meanwhile."""
    run = world.run("run-1", "task-1")
    assert apply_at_once(world.database, run, replace(ADVANCE, effects=(lambda tx: None,))) is None
    assert apply_at_once(world.database, run, replace(ADVANCE, error={"code": "c", "message": "m"})) is None
    assert _left(world, "run-1")[0]["rev"] == 0


def test_an_event_that_was_appended_while_the_apply_waited_for_the_row_is_numbered_before_its_own(world: World) -> None:
    """The statement began before that event was there; its own number would be taken."""
    run = world.run("run-1", "task-1")
    locked, go = threading.Event(), threading.Event()
    answers: list[RunRow] = []

    def other(tx: Any) -> None:
        get_run(tx, "run-1", lock=True)
        append_event(tx, owner_id=OWNER, subject_kind="task", subject_id="task-1", kind="k", actor="a", at=1.5)
        locked.set()
        go.wait(20)

    writer = threading.Thread(target=lambda: world.write(other))
    writer.start()
    assert locked.wait(20)
    applier = threading.Thread(target=lambda: answers.append(_apply(world, run, ADVANCE)))
    applier.start()
    if world.database.counts_round_trips:
        wait_until(lambda: _waits_for_a_lock(world), "the apply waits for the row")
    go.set()
    writer.join(20)
    applier.join(20)
    assert answers[0].rev == 1
    with world.database.read() as tx:
        found = tx.execute(select(Event.seq, Event.kind).where(Event.subject_id == "task-1").order_by(Event.seq)).all()
    assert [tuple(one) for one in found] == [(1, "k"), (2, "step_entered")]


def _waits_for_a_lock(world: World) -> bool:
    with world.database.read() as tx:
        count = tx.exec_driver_sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").scalar_one()
    return bool(count)
