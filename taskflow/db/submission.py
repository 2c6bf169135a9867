"""Inserting a queued task with its run: together or not at all, in one statement where each is a round trip."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import CTE, Row, Select, Table, bindparam, insert, select

from taskflow.db.models import Event, IdempotencyKey, Run, Task
from taskflow.db.runs import run_values
from taskflow.db.session import Database
from taskflow.db.tasks import first_event, idempotency_values, task_values
from taskflow.engine.store import RunRow

#: What is inserted, and by which prefix a value of it is named among the parameters.
_TABLES: Mapping[str, Table] = {model.__tablename__: model.__table__ for model in (Run, Task, Event, IdempotencyKey)}  # type: ignore[misc]


def submit_at_once(
    database: Database,
    run: RunRow,
    task: Mapping[str, Any],
    *,
    key: tuple[str, str] | None,
    actor: str,
    now: float,
) -> Row[Any]:
    """Insert all rows of a submission in one statement, which PostgreSQL commits by itself; the task's row.

    ``task``: its columns; ``key``: the idempotency key and the request's hash, if it has one. Raises ``IntegrityError``,
    with nothing written, when that key was used meanwhile.
    """
    rows = {
        Run.__tablename__: run_values(run),
        Event.__tablename__: {**first_event(task, actor=actor, now=now), "seq": 1},
        Task.__tablename__: task_values(task, now=now),
    }
    if key is not None:
        rows[IdempotencyKey.__tablename__] = idempotency_values(run.owner_id, *key, task["id"], now)
    statement = _statement(tuple((table, tuple(values)) for table, values in rows.items()))
    parameters = {f"{table}_{name}": value for table, values in rows.items() for name, value in values.items()}
    written = database.write_one(statement, parameters)
    assert written is not None
    return written


@cache
def _statement(rows: tuple[tuple[str, tuple[str, ...]], ...]) -> Select[Any]:
    inserted = {table: _inserted(_TABLES[table], names) for table, names in rows}
    statement: Select[Any] = select(inserted.pop(Task.__tablename__))
    return statement.add_cte(*inserted.values())


def _inserted(table: Table, names: tuple[str, ...]) -> CTE:
    values = {name: bindparam(f"{table.name}_{name}", type_=table.c[name].type) for name in names}
    row = insert(table).values(values)
    return (row.returning(table) if table is Task.__table__ else row).cte(f"new_{table.name}")
