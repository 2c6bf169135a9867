"""Runs of pipelines of one's own in SQL: what was asked, who may signal them from outside, and their lists."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from taskflow.db.models import ErrorRow, Event, Run, SignalRow
from taskflow.db.own_models import OwnRun, RunCallback

SUBJECT_KIND = "own"
_ROW = select(Run.__table__, OwnRun.subject, OwnRun.request_hash).join(OwnRun, OwnRun.run_id == Run.id)
_OF_OWNER = _ROW.where(OwnRun.owner_id == bindparam("of_owner"))
_ONE = _OF_OWNER.where(Run.id == bindparam("of_run"))
_ONE_LOCKED = _ONE.with_for_update(of=Run)
_GRANTED: tuple[Any, ...] = (RunCallback.signal, RunCallback.expires_at, Run.owner_id)
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


def list_own_runs(
    tx: Connection,
    owner_id: str,
    *,
    limit: int,
    before: str | None = None,
    pipeline: str | None = None,
    subject: str | None = None,
    finished: bool | None = None,
) -> Sequence[Row[Any]]:
    """Runs of this owner, newest first, with ids less than ``before``."""
    query = _OF_OWNER.order_by(OwnRun.run_id.desc()).limit(limit)
    if before is not None:
        query = query.where(OwnRun.run_id < before)
    if pipeline is not None:
        query = query.where(Run.pipeline == pipeline)
    if subject is not None:
        query = query.where(OwnRun.subject == subject)
    if finished is not None:
        query = query.where(Run.finished_at.is_not(None) if finished else Run.finished_at.is_(None))
    return tx.execute(query, {"of_owner": owner_id}).all()


def count_open(tx: Connection, owner_id: str, limit: int) -> int:
    """Open runs of this owner's pipelines; not counted further than ``limit``."""
    found = (
        select(Run.id)
        .join(OwnRun, OwnRun.run_id == Run.id)
        .where(OwnRun.owner_id == owner_id, Run.finished_at.is_(None))
        .limit(limit)
    )
    return tx.execute(select(func.count()).select_from(found.subquery())).scalar_one()


def unregistered(tx: Connection, known: Collection[str]) -> Sequence[Row[Any]]:
    """Pipelines of open runs that are not ``known``: ``pipeline``, how many ``runs``, and the ``first`` of them."""
    return tx.execute(
        select(*_GROUP)
        .where(Run.finished_at.is_(None), Run.pipeline.not_in(known))
        .group_by(Run.pipeline)
        .order_by(Run.pipeline)
    ).all()


def last_error(tx: Connection, run_id: str) -> Row[Any] | None:
    """The newest failed attempt of a run."""
    return tx.execute(
        select(ErrorRow.__table__).where(ErrorRow.run_id == run_id).order_by(ErrorRow.id.desc()).limit(1)
    ).first()


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
