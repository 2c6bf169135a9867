"""The append-only history, and the outbox: rows that are written in somebody else's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from taskflow.db.models import Event, OutboxRow

#: The next ``seq`` of a subject (``of_kind``, ``of_subject``).
NEXT_SEQ = (
    select(func.coalesce(func.max(Event.seq), 0) + 1)
    .where(Event.subject_kind == bindparam("of_kind"), Event.subject_id == bindparam("of_subject"))
    .scalar_subquery()
)
_APPEND = insert(Event).values(seq=NEXT_SEQ)
_PROMISE = insert(OutboxRow)
_FAILS = OutboxRow.done_at.is_(None), OutboxRow.attempts > 0
_OPEN = (
    select(OutboxRow.id, OutboxRow.kind, OutboxRow.payload, OutboxRow.attempts)
    .where(OutboxRow.done_at.is_(None), OutboxRow.next_at <= bindparam("now"))
    .order_by(OutboxRow.id)
    .limit(bindparam("at_most"))
)


def append_event(
    tx: Connection,
    *,
    owner_id: str,
    subject_kind: str,
    subject_id: str,
    kind: str,
    actor: str,
    at: float,
    run_id: str | None = None,
    step: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append one event with the subject's next ``seq``. The caller's transaction has locked the subject's row."""
    tx.execute(
        _APPEND,
        {
            "owner_id": owner_id,
            "subject_kind": subject_kind,
            "subject_id": subject_id,
            "of_kind": subject_kind,
            "of_subject": subject_id,
            "run_id": run_id,
            "kind": kind,
            "step": step,
            "actor": actor,
            "data": dict(data or {}),
            "at": at,
        },
    )


def events_after(
    tx: Connection, owner_id: str, subject_kind: str, subject_id: str, after: int, limit: int
) -> Sequence[Row[Any]]:
    """Events of one subject with ``seq`` greater than ``after``, in order."""
    return tx.execute(
        select(Event.__table__)
        .where(
            Event.owner_id == owner_id,
            Event.subject_kind == subject_kind,
            Event.subject_id == subject_id,
            Event.seq > after,
        )
        .order_by(Event.seq)
        .limit(limit)
    ).all()


def newest_events(
    tx: Connection, owner_id: str, subject_kind: str, subject_id: str, limit: int, run_id: str | None = None
) -> Sequence[Row[Any]]:
    """The newest events of one subject, or of one of its runs, in order."""
    wanted = select(Event.__table__).where(
        Event.owner_id == owner_id, Event.subject_kind == subject_kind, Event.subject_id == subject_id
    )
    if run_id is not None:
        wanted = wanted.where(Event.run_id == run_id)
    return tx.execute(wanted.order_by(Event.seq.desc()).limit(limit)).all()[::-1]


def last_event(tx: Connection, subject_kind: str, subject_id: str, kind: str) -> Row[Any] | None:
    """The newest event of this kind in a subject's history."""
    return tx.execute(
        select(Event.__table__)
        .where(Event.subject_kind == subject_kind, Event.subject_id == subject_id, Event.kind == kind)
        .order_by(Event.seq.desc())
        .limit(1)
    ).first()


def promise(tx: Connection, kind: str, payload: Mapping[str, Any], at: float, *, owner_id: str | None = None) -> None:
    """Write an outbox row: ``kind`` names the consumer that will be given ``payload``, at least once.

    ``owner_id``: whom it is for, and so who may see it when it fails; None: it is for the installation.
    """
    values = {"kind": kind, "payload": dict(payload), "created_at": at, "next_at": at, "attempts": 0}
    tx.execute(_PROMISE, {**values, "owner_id": owner_id})


def open_promises(tx: Connection, now: float, limit: int) -> Sequence[Row[Any]]:
    """Outbox rows that are due, oldest first."""
    return tx.execute(_OPEN, {"now": now, "at_most": limit}).all()


def count_resting_promises(tx: Connection, now: float) -> int:
    """Outbox rows whose consumer failed and that are not due again yet."""
    resting = OutboxRow.done_at.is_(None), OutboxRow.next_at > now, OutboxRow.attempts > 0
    return tx.execute(select(func.count()).select_from(OutboxRow).where(*resting)).scalar_one()


def count_failing_promises(tx: Connection) -> int:
    """How many open outbox rows failed, of all owners."""
    return int(tx.execute(select(func.count()).select_from(OutboxRow).where(*_FAILS)).scalar_one())


def failing_promises(tx: Connection, limit: int, *, owner_id: str | None = None) -> Sequence[Row[Any]]:
    """Outbox rows whose consumer failed and that are open, the most often tried first; ``owner_id``: only theirs."""
    wanted = select(OutboxRow.__table__).where(*_FAILS)
    if owner_id is not None:
        wanted = wanted.where(OutboxRow.owner_id == owner_id)
    return tx.execute(wanted.order_by(OutboxRow.attempts.desc(), OutboxRow.id).limit(limit)).all()


def settle_promise(
    tx: Connection,
    row_id: int,
    *,
    now: float,
    retry_at: float | None = None,
    tried: bool = True,
    error: Mapping[str, Any] | None = None,
) -> None:
    """Mark an outbox row done, or due again at ``retry_at``; not ``tried``: it was too early for it, and it is well.

    ``error``: why its consumer failed, kept with it.
    """
    values: dict[str, Any] = {"attempts": OutboxRow.attempts + 1 if tried else 0}
    if retry_at is None:
        values["done_at"] = now
    else:
        values["next_at"] = retry_at
    if error is not None:
        values["error"] = dict(error)
    tx.execute(update(OutboxRow).where(OutboxRow.id == row_id, OutboxRow.done_at.is_(None)).values(**values))
