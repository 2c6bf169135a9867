"""Runs of pipelines of one's own in SQL: what was asked, who may signal them from outside, and their lists."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)

from taskflow.db.models import Event, Run, SignalRow
from taskflow.db.own_models import OwnRun, RunCallback
from taskflow.db.status import RUN_STATUSES
from taskflow.engine.pipeline import CANCELLED

SUBJECT_KIND = "own"
_RUNNING, _WAITING, _COMPLETED, _FAILED, _CANCELLED = RUN_STATUSES
#: Runs of pipelines of one's own. As a literal: with a parameter the indexes of these runs alone can't be used.
OWN: ColumnElement[bool] = text(f"runs.subject_kind = '{SUBJECT_KIND}'")  # type: ignore[assignment]
_ROW = select(Run.__table__, OwnRun.subject, OwnRun.request_hash).join(OwnRun, OwnRun.run_id == Run.id)
_OF_OWNER = _ROW.where(OwnRun.owner_id == bindparam("of_owner"))
_ONE = _OF_OWNER.where(Run.id == bindparam("of_run"))
_ONE_LOCKED = _ONE.with_for_update(of=Run)
_GRANTED: tuple[Any, ...] = (RunCallback.signal, RunCallback.expires_at, Run.owner_id)
#: What a line of a list says: not what a run was given and what it left, which may be long.
_SUMMARY: tuple[Any, ...] = (
    Run.id, Run.pipeline, OwnRun.subject, Run.number, Run.step, Run.awaiting, Run.deadline_at, Run.cancel_requested_at,
    Run.error, Run.created_at, Run.finished_at,
)  # fmt: skip
_NEWEST: tuple[Any, ...] = (Run.id, Run.number, Run.finished_at)
_GROUP: tuple[Any, ...] = (Run.pipeline, func.count().label("runs"), func.min(Run.id).label("first"))
_CALLBACK = (
    select(*_GRANTED)
    .join(Run, Run.id == RunCallback.run_id)
    .where(RunCallback.run_id == bindparam("of_run"), RunCallback.token_hash == bindparam("hashed"))
)


def subject_id_of(owner_id: str, pipeline: str, subject: str) -> str:
    """What ``subject`` is called in ``runs``: the same for one owner and pipeline, another for every other."""
    said = "\0".join((owner_id, pipeline, subject)).encode()
    return f"own-{hashlib.sha256(said).hexdigest()[:40]}"


def insert_own_run(
    tx: Connection, run_id: str, owner_id: str, *, subject: str | None, key: tuple[str, str] | None
) -> None:
    """What was asked of a run that is inserted in the same transaction; ``key``: idempotency key and request's hash."""
    tx.execute(
        insert(OwnRun).values(
            run_id=run_id, owner_id=owner_id, subject=subject, idempotency_key=key and key[0],
            request_hash=key and key[1],
        )
    )  # fmt: skip


def get_own_run(tx: Connection, owner_id: str, run_id: str, *, lock: bool = False) -> Row[Any] | None:
    """A run of this owner with its ``subject``; ``lock`` holds its row until the transaction ends."""
    return tx.execute(_ONE_LOCKED if lock else _ONE, {"of_owner": owner_id, "of_run": run_id}).first()


def run_of_key(tx: Connection, owner_id: str, key: str) -> Row[Any] | None:
    """The run that this idempotency key made."""
    return tx.execute(_OF_OWNER.where(OwnRun.idempotency_key == key), {"of_owner": owner_id}).first()


def last_of_subject(tx: Connection, subject_id: str) -> Row[Any] | None:
    """The newest run of a subject: its id, number, and when it finished."""
    return tx.execute(
        select(*_NEWEST)
        .where(Run.subject_kind == SUBJECT_KIND, Run.subject_id == subject_id)
        .order_by(Run.number.desc())
        .limit(1)
    ).first()


@dataclass(frozen=True)
class RunFilter:
    """Which runs of an owner. What is left out does not matter; a run has to fit all that is said.

    ``statuses``: of ``RUN_STATUSES``; ``subject``: in the words of who started it; ``finished``: whether it has ended.
    """

    statuses: tuple[str, ...] = ()
    pipeline: str | None = None
    subject: str | None = None
    finished: bool | None = None


EVERY_RUN = RunFilter()


def list_own_runs(
    tx: Connection, owner_id: str, wanted: RunFilter = EVERY_RUN, *, limit: int, before: str | None = None
) -> Sequence[Row[Any]]:
    """Runs of this owner that are ``wanted``, newest first, with ids less than ``before``."""
    query = select(*_SUMMARY).join(OwnRun, OwnRun.run_id == Run.id).limit(limit)
    if wanted.finished is False or (wanted.statuses and set(wanted.statuses) <= {_RUNNING, _WAITING}):
        # By the index of open runs, which are few; the others by that of all runs of the owner.
        place: Any = Run.id
        query = query.where(Run.owner_id == owner_id, OWN, Run.finished_at.is_(None))
    else:
        place = OwnRun.run_id
        query = query.where(OwnRun.owner_id == owner_id)
    if before is not None:
        query = query.where(place < before)
    if wanted.statuses:
        query = query.where(or_(*map(_has_status, wanted.statuses)))
    if wanted.pipeline is not None:
        query = query.where(Run.pipeline == wanted.pipeline)
    if wanted.subject is not None:
        query = query.where(OwnRun.subject == wanted.subject)
    if wanted.finished:
        query = query.where(Run.finished_at.is_not(None))
    return tx.execute(query.order_by(place.desc())).all()


def status_of(row: Row[Any]) -> str:
    """One of ``RUN_STATUSES``; ``_has_status`` asks SQL the same."""
    if row.finished_at is None:
        return _RUNNING if row.awaiting is None else _WAITING
    if row.error is None:
        return _COMPLETED
    return _CANCELLED if row.error.get("code") == CANCELLED else _FAILED


def _has_status(status: str) -> ColumnElement[bool]:
    code = Run.error["code"].as_string()
    if status in (_RUNNING, _WAITING):
        awaits = Run.awaiting.is_(None) if status == _RUNNING else Run.awaiting.is_not(None)
        return and_(Run.finished_at.is_(None), awaits)
    how = {_COMPLETED: code.is_(None), _FAILED: code != CANCELLED, _CANCELLED: code == CANCELLED}[status]
    return and_(Run.finished_at.is_not(None), how)


def ended_as() -> ColumnElement[str]:
    """How a run that has ended is called in SQL: completed, failed or cancelled."""
    code = Run.error["code"].as_string()
    return case((code.is_(None), _COMPLETED), (code == CANCELLED, _CANCELLED), else_=_FAILED)


def count_open_runs(tx: Connection, owner_id: str) -> dict[str, int]:
    """How many runs of this owner are running, and how many wait for a signal."""
    status = case((Run.awaiting.is_(None), _RUNNING), else_=_WAITING).label("status")
    rows = tx.execute(
        select(status, func.count().label("runs"))
        .where(Run.owner_id == owner_id, OWN, Run.finished_at.is_(None))
        .group_by(status)
    )
    return {_RUNNING: 0, _WAITING: 0} | {row.status: row.runs for row in rows}


def failed_runs(tx: Connection, owner_id: str, since: float, limit: int) -> Sequence[Row[Any]]:
    """Runs of this owner that failed at ``since`` (seconds since the epoch) or later, what failed last first."""
    return tx.execute(
        select(*_SUMMARY)
        .join(OwnRun, OwnRun.run_id == Run.id)
        .where(Run.owner_id == owner_id, OWN, Run.finished_at >= since, _has_status(_FAILED))
        .order_by(Run.finished_at.desc(), Run.id.desc())
        .limit(limit)
    ).all()


def _open_up_to(limit: str, *where: Any) -> Any:
    found = select(literal(1)).select_from(Run).where(OWN, Run.finished_at.is_(None), *where).limit(bindparam(limit))
    return select(func.count()).select_from(found.subquery()).scalar_subquery()


_OPEN_COUNTS = select(
    _open_up_to("mine_max", Run.owner_id == bindparam("of_owner")).label("mine"),
    _open_up_to("all_max").label("all"),
)


def open_counts(tx: Connection, owner_id: str, *, mine_max: int, all_max: int) -> tuple[int, int]:
    """Open runs of pipelines of this owner, and of all owners, each counted no further than its ``max``."""
    found = tx.execute(_OPEN_COUNTS, {"of_owner": owner_id, "mine_max": mine_max, "all_max": all_max}).one()
    return found.mine, found.all


def unregistered(tx: Connection, known: Collection[str]) -> Sequence[Row[Any]]:
    """Pipelines of open runs that are not ``known``: ``pipeline``, how many ``runs``, and the ``first`` of them."""
    return tx.execute(
        select(*_GROUP)
        .where(Run.finished_at.is_(None), Run.pipeline.not_in(known))
        .group_by(Run.pipeline)
        .order_by(Run.pipeline)
    ).all()


def events_of_run(tx: Connection, run: Row[Any], after: int, limit: int) -> Sequence[Row[Any]]:
    """Events of one run of a subject with ``seq`` greater than ``after``, in order."""
    return tx.execute(
        select(Event.__table__)
        .where(
            Event.subject_kind == run.subject_kind, Event.subject_id == run.subject_id, Event.run_id == run.id,
            Event.owner_id == run.owner_id, Event.seq > after,
        )
        .order_by(Event.seq)
        .limit(limit)
    ).all()  # fmt: skip


# --- signals


def get_signal(tx: Connection, run_id: str, name: str, subject: str) -> Row[Any] | None:
    """The recorded signal of this name and subject."""
    return tx.execute(
        select(SignalRow.payload).where(
            SignalRow.run_id == run_id, SignalRow.name == name, SignalRow.subject == subject
        )
    ).first()


def count_waiting_signals(tx: Connection, run_id: str) -> int:
    """Signals of a run that no step took yet."""
    waiting = SignalRow.run_id == run_id, SignalRow.consumed_at.is_(None)
    return tx.execute(select(func.count()).select_from(SignalRow).where(*waiting)).scalar_one()


def count_signals(tx: Connection, run_id: str, name: str) -> tuple[int, int]:
    """How many signals of this name came to a run, and how many of them its steps have not taken yet."""
    untaken = func.count().filter(SignalRow.consumed_at.is_(None))
    of_name = SignalRow.run_id == run_id, SignalRow.name == name
    came, left = tx.execute(select(func.count(), untaken).select_from(SignalRow).where(*of_name)).one()
    return int(came), int(left)


def grant_callback(
    tx: Connection, run_id: str, signal: str, *, token_hash: str, now: float, expires_at: float
) -> float:
    """Let the holder of this token send ``signal`` to the run until ``expires_at``, or until when it was let before if that
    is later: until when it is."""
    later = func.max if tx.dialect.name == "sqlite" else func.greatest
    known = tx.execute(
        update(RunCallback)
        .where(RunCallback.run_id == run_id, RunCallback.signal == signal)
        .values(token_hash=token_hash, expires_at=later(RunCallback.expires_at, expires_at))
        .returning(RunCallback.expires_at)
    ).scalar_one_or_none()
    if known is not None:
        return float(known)
    tx.execute(
        insert(RunCallback).values(
            run_id=run_id, signal=signal, token_hash=token_hash, created_at=now, expires_at=expires_at
        )
    )
    return expires_at


def find_callback(tx: Connection, run_id: str, hashed: str) -> Row[Any] | None:
    """What a token with this hash opens at this run: its ``signal``, ``expires_at`` and the run's ``owner_id``."""
    return tx.execute(_CALLBACK, {"of_run": run_id, "hashed": hashed}).first()
