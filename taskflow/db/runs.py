"""Runs in SQL: the store of the engine, and signals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    and_,
    bindparam,
    insert,
    literal,
    or_,
    select,
    union,
    update,
)

from taskflow.db.apply import AT_REV, apply_at_once, apply_change
from taskflow.db.events import append_event
from taskflow.db.models import ControlShard, ErrorRow, Run, SignalRow
from taskflow.db.session import Database
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.store import Change, Failure, RunRow, Signal
from taskflow.ids import RunId

# Statements of every turn are built once: to build one anew costs more than SQLite needs to run it.
_RUNS = Run.__table__
_RUN = select(_RUNS).where(Run.id == bindparam("of_run"))
_RUN_LOCKED = _RUN.with_for_update()
_LOCK_AT_REV = select(Run.id).where(*AT_REV).with_for_update()
_INSERT_RUN, _INSERT_ERROR = insert(Run), insert(ErrorRow)
#: The run beside each signal that it has not consumed: one statement, as every turn begins with it.
_LOAD = (
    select(
        _RUNS,
        SignalRow.id.label("signal_id"),
        SignalRow.name.label("signal_name"),
        SignalRow.subject.label("signal_subject"),
        SignalRow.payload.label("signal_payload"),
        SignalRow.recorded_at.label("signal_recorded_at"),
    )
    .outerjoin_from(Run, SignalRow, and_(SignalRow.run_id == Run.id, SignalRow.consumed_at.is_(None)))
    .where(Run.id == bindparam("of_run"))
    .order_by(SignalRow.id)
)
_STORED = select(SignalRow.payload).where(
    SignalRow.run_id == bindparam("run_id"),
    SignalRow.name == bindparam("name"),
    SignalRow.subject == bindparam("subject"),
)
_SIGNAL = ("run_id", "name", "subject", "payload", "recorded_at")
_INSERT_SIGNAL = (
    insert(SignalRow)
    .from_select(
        _SIGNAL,
        select(*(bindparam(name, type_=SignalRow.__table__.c[name].type) for name in _SIGNAL)).where(~_STORED.exists()),
    )
    .returning(SignalRow.id)
)
_INCARNATIONS = select(ControlShard.shard, ControlShard.incarnation)


def to_row(row: Row[Any]) -> RunRow:
    """A row of ``runs`` as the engine knows it."""
    return RunRow(
        id=RunId(row.id),
        pipeline=row.pipeline,
        version=row.version,
        subject_kind=row.subject_kind,
        subject_id=row.subject_id,
        number=row.number,
        owner_id=row.owner_id,
        step=row.step,
        rev=row.rev,
        step_entered_at=row.step_entered_at,
        deadline_at=row.deadline_at,
        awaiting=row.awaiting,
        wake_at=row.wake_at,
        results=row.results,
        error=row.error,
        cancel_requested_at=row.cancel_requested_at,
        cancel_reason=row.cancel_reason,
        finished_at=row.finished_at,
        created_at=row.created_at,
    )


class RunStore:
    """``taskflow.engine.store.Store`` on SQLAlchemy."""

    def __init__(self, database: Database, pipelines: Mapping[str, Pipeline]) -> None:
        """``pipelines``: those that workers of this release know, by name."""
        self._database = database
        self._pipelines = pipelines

    def load(self, run_id: RunId) -> tuple[RunRow, tuple[Signal, ...]] | None:
        """The row and its unconsumed signals, oldest first."""
        with self._database.read() as tx:
            rows = tx.execute(_LOAD, {"of_run": run_id}).all()
        return (to_row(rows[0]), tuple(_signals(rows))) if rows else None

    def apply(self, run: RunRow, change: Change) -> tuple[RunRow, tuple[RunId, ...]]:
        """One transaction guarded by ``run.rev``; see the port."""
        if self._database.counts_round_trips:
            row = apply_at_once(self._database, run, change)
            if row is not None:
                return row, ()
        return self._database.write(lambda tx: apply_change(tx, run, change))

    def record_failure(self, run: RunRow, failure: Failure) -> None:
        """Append a failed attempt and its event, unless the run moved on."""

        def work(tx: Connection) -> None:
            if tx.execute(_LOCK_AT_REV, {"of_run": run.id, "at_rev": run.rev}).first() is None:
                return
            tx.execute(
                _INSERT_ERROR,
                {
                    "owner_id": run.owner_id,
                    "run_id": run.id,
                    "step": failure.step,
                    "attempt": failure.attempt,
                    "code": failure.error["code"],
                    "error": dict(failure.error),
                    "retry_in_s": failure.retry_in_s,
                    "at": failure.at,
                },
            )
            append_event(
                tx,
                owner_id=run.owner_id,
                subject_kind=run.subject_kind,
                subject_id=run.subject_id,
                run_id=run.id,
                kind="step_failed",
                step=failure.step,
                actor="runner",
                at=failure.at,
                data={
                    "attempt": failure.attempt,
                    "code": failure.error["code"],
                    "message": failure.error["message"],
                    "retry_in_s": failure.retry_in_s,
                },
            )

        self._database.write(work)

    def open_runs(self, after: str, limit: int) -> list[RunRow]:
        """A page of unfinished runs in id order."""
        with self._database.read() as tx:
            rows = tx.execute(
                select(_RUNS).where(Run.finished_at.is_(None), Run.id > after).order_by(Run.id).limit(limit)
            ).all()
            return [to_row(row) for row in rows]

    def runs_with_awaited_signal(self, limit: int) -> list[RunId]:
        """Open runs whose awaited signal is recorded, or whose cancel is requested and not yet acted on.

        Those that no worker of this release takes up are left out: they stay as they are, and many of them would stand
        before all others for ever.
        """
        statement = _runs_with_awaited_signal(self._pipelines.values()).limit(limit)
        with self._database.read() as tx:
            return [RunId(row.id) for row in tx.execute(statement).all()]

    def finished_or_unknown(self, run_ids: Sequence[RunId]) -> list[RunId]:
        """Those of ``run_ids`` that SQL has finished or never had."""
        with self._database.read() as tx:
            rows = tx.execute(select(Run.id).where(Run.id.in_(run_ids), Run.finished_at.is_(None))).all()
        still_open = {row.id for row in rows}
        return [run_id for run_id in run_ids if run_id not in still_open]

    def incarnations(self) -> Mapping[int, str]:
        """The reconciled incarnation of each shard."""
        with self._database.read() as tx:
            rows = tx.execute(_INCARNATIONS).all()
        return {row.shard: row.incarnation for row in rows}

    def write_incarnation(self, shard: int, value: str, at: float) -> None:
        """Say that this shard was reconciled under ``value``."""

        def work(tx: Connection) -> None:
            changed = tx.execute(
                update(ControlShard).where(ControlShard.shard == shard).values(incarnation=value, reconciled_at=at)
            )
            if changed.rowcount == 0:
                tx.execute(insert(ControlShard).values(shard=shard, incarnation=value, reconciled_at=at))

        self._database.write(work)


def _runs_with_awaited_signal(pipelines: Iterable[Pipeline]) -> CompoundSelect[Any]:
    # Two questions, each with an index of its few rows: asked as one, every open run would be looked at.
    known: ColumnElement[bool] = literal(False)
    acts_on_cancel: ColumnElement[bool] = literal(False)
    for table in pipelines:
        taken_up = and_(Run.pipeline == table.name, Run.version <= table.version)
        known = or_(known, taken_up)
        acts_on_cancel = or_(acts_on_cancel, and_(taken_up, Run.step.not_in(sorted(table.closing))))
    awaited = (
        select(Run.id)
        .join(SignalRow, and_(SignalRow.run_id == Run.id, SignalRow.name == Run.awaiting))
        .where(SignalRow.consumed_at.is_(None), Run.finished_at.is_(None), known)
    )
    cancelled = select(Run.id).where(Run.finished_at.is_(None), Run.cancel_requested_at.is_not(None), acts_on_cancel)
    return union(awaited, cancelled)


def insert_run(tx: Connection, run: RunRow) -> None:
    """A new open run. Its control state is made after the commit, by ``ensure`` or by the rescue."""
    tx.execute(_INSERT_RUN, run_values(run))


def run_values(run: RunRow) -> dict[str, Any]:
    """The columns of a new open run."""
    return {
        "id": run.id,
        "owner_id": run.owner_id,
        "pipeline": run.pipeline,
        "version": run.version,
        "subject_kind": run.subject_kind,
        "subject_id": run.subject_id,
        "number": run.number,
        "step": run.step,
        "rev": run.rev,
        "step_entered_at": run.step_entered_at,
        "deadline_at": run.deadline_at,
        "results": dict(run.results),
        "created_at": run.created_at,
    }


def get_run(tx: Connection, run_id: str, *, lock: bool = False) -> RunRow | None:
    """A run by id; ``lock`` holds its row until the transaction ends, which also orders its events."""
    row = tx.execute(_RUN_LOCKED if lock else _RUN, {"of_run": run_id}).first()
    return None if row is None else to_row(row)


def request_cancel(tx: Connection, run_id: str, *, actor: str, reason: str, now: float) -> bool:
    """Ask an open run to cancel; False when it already is asked or over. Changes neither step nor ``rev``."""
    changed = tx.execute(
        update(Run)
        .where(Run.id == run_id, Run.finished_at.is_(None), Run.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now, cancel_requested_by=actor, cancel_reason=reason)
    )
    return changed.rowcount == 1


def record_signal(
    tx: Connection, run_id: str, name: str, subject: str, payload: Mapping[str, Any], *, now: float
) -> tuple[bool, Mapping[str, Any]]:
    """Record a signal, first write wins: (True, payload) when this is the first, else (False, the stored payload).

    The caller holds the run's row lock (``get_run(lock=True)``), which makes look and insert one step.
    """
    signal = {"run_id": run_id, "name": name, "subject": subject}
    if tx.execute(_INSERT_SIGNAL, {**signal, "payload": dict(payload), "recorded_at": now}).first() is not None:
        return True, payload
    return False, tx.execute(_STORED, signal).one().payload


def consume_signal(tx: Connection, run_id: str, name: str, subject: str, *, now: float) -> None:
    """Mark a signal consumed that its turn has not read."""
    tx.execute(
        update(SignalRow)
        .where(SignalRow.run_id == run_id, SignalRow.name == name, SignalRow.subject == subject)
        .values(consumed_at=now)
    )


def record_answer(
    tx: Connection, run: RunRow, name: str, subject: str, payload: Mapping[str, Any], *, actor: str, now: float
) -> Mapping[str, Any] | None:
    """Record the one answer to the question (``name``, ``subject``), and its event; a repeat changes nothing.

    Returns the answer that counts when it is another one: it came first. The caller holds the run's row lock.
    """
    first, stored = record_signal(tx, run.id, name, subject, payload, now=now)
    if not first:
        return None if payload_hash(stored) == payload_hash(payload) else stored
    append_event(
        tx, owner_id=run.owner_id, subject_kind=run.subject_kind, subject_id=run.subject_id, run_id=run.id,
        kind="signal_recorded", step=run.step, actor=actor, at=now,
        data={"name": name, "subject": subject, "status": payload.get("status") or payload.get("outcome")},
    )  # fmt: skip
    return None


def payload_hash(payload: Mapping[str, Any]) -> str:
    """Equal payloads have equal hashes, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _signals(rows: Sequence[Row[Any]]) -> Iterator[Signal]:
    for row in rows:
        if row.signal_id is not None:
            yield Signal(row.signal_id, row.signal_name, row.signal_subject, row.signal_payload, row.signal_recorded_at)
