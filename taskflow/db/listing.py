"""Pages of what grows: tasks by what is asked of them, runs of a task, failed attempts.

Each page is found from the key of the last row that was seen, so it costs the same however far down it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, Row, and_, func, or_, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from taskflow.db.models import ErrorRow, Event, Node, Run, Task
from taskflow.db.own_models import OwnRun
from taskflow.db.session import UNICODE_LOWER

#: What a page of runs shows: not the results of their steps, which may be long.
_OF_RUN: tuple[Any, ...] = (
    Run.id, Run.number, Run.step, Run.step_entered_at, Run.result, Run.error, Run.cancel_requested_at,
    Run.cancel_requested_by, Run.cancel_reason, Run.created_at, Run.finished_at,
)  # fmt: skip
#: What a line of a list shows of a task and its run: not what it was given and what it left, which may be long.
OF_TASK: tuple[Any, ...] = (
    Task.id, Task.title, Task.status, Task.project, Task.run_number, Task.node_id, Task.error, Task.created_at,
    Task.completed_at, Run.step, Run.created_at.label("run_created_at"), Run.finished_at.label("run_finished_at"),
)  # fmt: skip
_NUMBER_MAX = 2**31 - 1
_SEARCHED = (Task.title, Task.id, Task.repository)


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks of an owner. What is left out does not matter; a task has to fit all that is said.

    ``project`` '': those of none. ``step``: where an open run stands. ``labels``: (key, value) that a task has all of.
    ``text``: a part of title, id or repository, in capitals or not. ``created_after``, ``created_before``: seconds since
    the epoch; a task of the first instant is in, one of the last is not.
    """

    statuses: tuple[str, ...] = ()
    project: str | None = None
    step: str | None = None
    node_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    created_after: float | None = None
    created_before: float | None = None


EVERY_TASK = TaskFilter()


def list_tasks(
    tx: Connection,
    owner_id: str,
    wanted: TaskFilter = EVERY_TASK,
    *,
    limit: int,
    before: tuple[float, str] | None = None,
) -> Sequence[Row[Any]]:
    """Tasks newest first, with the step of their run; ``before`` is the (created_at, id) of the last row seen."""
    statement = (
        select(*OF_TASK)
        .outerjoin(Run, Run.id == Task.run_id)
        .where(Task.owner_id == owner_id, *_conditions(tx, owner_id, wanted))
        .order_by(Task.created_at.desc(), Task.id.desc())
        .limit(limit)
    )
    if before is not None:
        at, task_id = before
        # The first part follows from the second, and is what an index can begin at.
        statement = statement.where(Task.created_at <= at, or_(Task.created_at < at, Task.id < task_id))
    return tx.execute(statement).all()


def _conditions(tx: Connection, owner_id: str, wanted: TaskFilter) -> Iterator[ColumnElement[bool]]:
    on_postgresql = tx.dialect.name == "postgresql"
    if wanted.statuses:
        yield Task.status.in_(wanted.statuses)
    if wanted.project is not None:
        yield Task.project == wanted.project
        if wanted.project:
            yield Task.project != ""  # says that the partial index has them all
    if wanted.step is not None:
        yield Task.run_id.in_(
            select(Run.id).where(Run.owner_id == owner_id, Run.finished_at.is_(None), Run.step == wanted.step)
        )
    if wanted.node_id is not None:
        yield Task.node_id == wanted.node_id
    if wanted.created_after is not None:
        yield Task.created_at >= wanted.created_after
    if wanted.created_before is not None:
        yield Task.created_at < wanted.created_before
    for key, value in wanted.labels:
        yield _has_label(key, value, on_postgresql=on_postgresql)
    if wanted.text:
        yield _has_text(wanted.text, on_postgresql=on_postgresql)


def _has_label(key: str, value: str, *, on_postgresql: bool) -> ColumnElement[bool]:
    if on_postgresql:
        return type_coerce(Task.labels.cast(JSONB).contains({key: value}), Boolean)
    each = func.json_each(Task.labels).table_valued("key", "value")
    return select(each.c.key).where(each.c.key == key, each.c.value == value).exists()


def _has_text(text: str, *, on_postgresql: bool) -> ColumnElement[bool]:
    if on_postgresql or text.isascii():  # SQLite's own LIKE knows the capitals of ASCII alone
        return or_(*(column.icontains(text, autoescape=True) for column in _SEARCHED))
    lower = getattr(func, UNICODE_LOWER)
    return or_(*(lower(column).contains(text.lower(), autoescape=True) for column in _SEARCHED))


def list_runs(
    tx: Connection, owner_id: str, task_id: str, *, limit: int, before: int | None = None
) -> Sequence[Row[Any]]:
    """Runs of a task, the last one first; ``before``: the number of the last row seen."""
    statement = (
        select(*_OF_RUN)
        .where(Run.owner_id == owner_id, Run.subject_kind == "task", Run.subject_id == task_id)
        .order_by(Run.number.desc())
        .limit(limit)
    )
    if before is not None:
        # A cursor may be any number; PostgreSQL fails at one that its column can't hold.
        statement = statement.where(Run.number < min(before, _NUMBER_MAX))
    return tx.execute(statement).all()


def steps_of_runs(tx: Connection, owner_id: str, task_id: str, run_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Where these runs of a task left a step: events, in order."""
    return tx.execute(
        select(Event.run_id, Event.kind, Event.step, Event.data, Event.at)
        .where(
            Event.owner_id == owner_id,
            Event.subject_kind == "task",
            Event.subject_id == task_id,
            Event.kind.in_(("step_entered", "run_finished")),
            Event.run_id.in_(run_ids),
        )
        .order_by(Event.seq)
    ).all()


def list_errors(
    tx: Connection,
    owner_id: str,
    *,
    limit: int,
    task_id: str | None = None,
    step: str | None = None,
    code: str | None = None,
    before: int | None = None,
) -> Sequence[Row[Any]]:
    """Failed attempts, newest first, each with its run and what that was of; ``before``: the id of the last row seen."""
    statement = (
        select(
            ErrorRow.__table__,
            Run.subject_kind,
            Run.subject_id,
            Run.number,
            Run.pipeline,
            Task.title,
            Node.name.label("node_name"),
            OwnRun.subject,
        )
        .outerjoin(Run, Run.id == ErrorRow.run_id)
        .outerjoin(Task, and_(Run.subject_kind == "task", Task.id == Run.subject_id))
        .outerjoin(Node, and_(Run.subject_kind == "node", Node.id == Run.subject_id))
        .outerjoin(OwnRun, OwnRun.run_id == ErrorRow.run_id)
        .where(ErrorRow.owner_id == owner_id)
        .order_by(ErrorRow.id.desc())
        .limit(limit)
    )
    if task_id is not None:
        of_task = select(Run.id).where(Run.subject_kind == "task", Run.subject_id == task_id)
        statement = statement.where(ErrorRow.run_id.in_(of_task))
    if step is not None:
        statement = statement.where(ErrorRow.step == step)
    if code is not None:
        statement = statement.where(ErrorRow.code == code)
    if before is not None:
        statement = statement.where(ErrorRow.id < before)
    return tx.execute(statement).all()


def last_error(tx: Connection, run_id: str) -> Row[Any] | None:
    """The newest failed attempt of a run."""
    return tx.execute(
        select(ErrorRow.__table__).where(ErrorRow.run_id == run_id).order_by(ErrorRow.id.desc()).limit(1)
    ).first()
