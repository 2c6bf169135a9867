"""Writing what a turn decided: the row under its fence, the event, the signals it consumed, the effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, exists, insert, literal, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.db.events import NEXT_SEQ, append_event
from taskflow.db.models import Event, Run, SignalRow
from taskflow.db.session import Database
from taskflow.engine.store import CancelRequested, Change, RunRow, SignalArrived, Superseded
from taskflow.ids import RunId

#: The row of ``of_run`` as a turn read it: the fence.
AT_REV = (Run.id == bindparam("of_run"), Run.rev == bindparam("at_rev"), Run.finished_at.is_(None))
_APPLY = update(Run).where(*AT_REV).returning(Run.cancel_requested_at, Run.cancel_reason)
_APPLY_UNLESS_CANCELLED = _APPLY.where(Run.cancel_requested_at.is_(None))
_CONSUME = update(SignalRow).where(SignalRow.id.in_(bindparam("ids", expanding=True)))
_NEWER = (
    select(SignalRow.id)
    .where(
        SignalRow.run_id == bindparam("of_run"),
        SignalRow.id > bindparam("than"),
        SignalRow.consumed_at.is_(None),
    )
    .limit(1)
)
_REV = select(Run.rev, Run.finished_at).where(Run.id == bindparam("of_run"))


def apply_change(tx: Connection, run: RunRow, change: Change) -> tuple[RunRow, tuple[RunId, ...]]:
    """Write ``change`` if the row is still at ``run.rev`` and open; its effects and event in the same transaction.

    The row as it is then, and the runs to ring. Raises what ``taskflow.engine.store.Store.apply`` raises.
    """
    statement = _APPLY_UNLESS_CANCELLED if change.guarded else _APPLY
    written = tx.execute(statement, {**_row_values(run, change), "of_run": run.id, "at_rev": run.rev}).first()
    if written is None:
        raise _refusal(tx, run)
    if change.error is not None and change.seen_signal is not None and _has_newer(tx, run.id, change.seen_signal):
        raise SignalArrived
    if change.consumed:
        tx.execute(_CONSUME, {"ids": list(change.consumed), "consumed_at": change.now})
    event = _event_values(run, change)
    if event is not None:
        append_event(tx, **event)
    rings: list[RunId] = []
    for effect in change.effects:
        rings.extend(effect(tx) or ())
    return _row_after(run, change, written), tuple(rings)


def apply_at_once(database: Database, run: RunRow, change: Change) -> RunRow | None:
    """The same for a change without effects, in one statement: on PostgreSQL one round trip instead of five.

    None, with nothing written, when it has to go the long way: a failure, which must look for newer signals under the
    row's lock, or somebody appended to the subject's history at this very moment (a statement numbers its event by what
    was there when it began to wait for the lock).
    """
    if change.effects or change.error is not None:
        return None
    values, event = _row_values(run, change), _event_values(run, change)
    statement = _at_once(frozenset(values), change.guarded, event is not None, bool(change.consumed))
    parameters = {f"set_{name}": value for name, value in values.items()} | {"of_run": run.id, "at_rev": run.rev}
    if event is not None:
        parameters |= {f"event_{name}": value for name, value in event.items()}
        parameters |= {"of_kind": run.subject_kind, "of_subject": run.subject_id}
    if change.consumed:
        parameters |= {"ids": list(change.consumed), "now": change.now}
    try:
        written = database.write_one(statement, parameters)
    except IntegrityError:
        return None
    if written is None:
        with database.read() as tx:
            raise _refusal(tx, run)
    return _row_after(run, change, written)


@cache
def _at_once(names: frozenset[str], guarded: bool, says: bool, consumes: bool) -> Select[Any]:
    columns = Run.__table__.c
    values = {name: bindparam(f"set_{name}", type_=columns[name].type) for name in names}
    changed = (_APPLY_UNLESS_CANCELLED if guarded else _APPLY).values(values).cte("changed")
    statement: Select[Any] = select(changed)
    if says:
        event = {name: bindparam(f"event_{name}", type_=Event.__table__.c[name].type) for name in _EVENT}
        said = insert(Event).from_select(
            [*event, "seq"], select(*event.values(), NEXT_SEQ).select_from(changed), include_defaults=False
        )
        statement = statement.add_cte(said.cte("said"))
    if consumes:
        consumed = _CONSUME.where(exists(select(literal(1)).select_from(changed)))
        statement = statement.add_cte(consumed.values(consumed_at=bindparam("now")).cte("consumed"))
    return statement


def _row_values(run: RunRow, change: Change) -> dict[str, Any]:
    values: dict[str, Any] = {
        "step": change.step,
        "rev": run.rev + 1,
        "deadline_at": change.deadline_at,
        "awaiting": change.awaiting,
        "wake_at": change.wake_at,
    }
    if change.results:
        values["results"] = {**run.results, **change.results}
    if change.entered:
        values["step_entered_at"] = change.now
    if change.error is not None:
        values["error"] = dict(change.error)
    if change.finished:
        values["finished_at"] = change.now
        values["result"] = dict(change.result or {})
    return values


#: What an event of a step says, by the names of its columns and of ``append_event``.
_EVENT = ("owner_id", "subject_kind", "subject_id", "run_id", "kind", "step", "actor", "at", "data")


def _event_values(run: RunRow, change: Change) -> dict[str, Any] | None:
    """The event of this change, if it is worth one."""
    if not (change.entered or change.finished):
        return None
    data: dict[str, Any] = {"from": run.step, "duration_s": round(max(0.0, change.now - run.step_entered_at), 6)}
    if change.reason:
        data["reason"] = change.reason
    if change.error:
        data["error"] = {"code": change.error["code"], "message": change.error["message"]}
    kind = "run_finished" if change.finished else "step_entered"
    said = (run.owner_id, run.subject_kind, run.subject_id, run.id, kind, change.step, "runner", change.now, data)
    return dict(zip(_EVENT, said, strict=True))


def _row_after(run: RunRow, change: Change, written: Any) -> RunRow:
    results: Mapping[str, Any] = {**run.results, **change.results} if change.results else run.results
    return replace(
        run,
        step=change.step,
        rev=run.rev + 1,
        step_entered_at=change.now if change.entered else run.step_entered_at,
        deadline_at=change.deadline_at,
        awaiting=change.awaiting,
        wake_at=change.wake_at,
        results=results,
        error=change.error if change.error is not None else run.error,
        cancel_requested_at=written.cancel_requested_at,
        cancel_reason=written.cancel_reason,
        finished_at=change.now if change.finished else None,
    )


def _refusal(tx: Connection, run: RunRow) -> Exception:
    found = tx.execute(_REV, {"of_run": run.id}).first()
    if found is not None and found.rev == run.rev and found.finished_at is None:
        return CancelRequested()
    return Superseded()


def _has_newer(tx: Connection, run_id: str, signal_id: int) -> bool:
    """Whether a signal was recorded since. Asked after the row is locked: who records one holds that lock."""
    return tx.execute(_NEWER, {"of_run": run_id, "than": signal_id}).first() is not None
