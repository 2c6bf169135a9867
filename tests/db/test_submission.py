"""Submitting in one statement leaves what the statements of the long way leave, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from taskflow.db.models import Event, IdempotencyKey, Run, Task
from taskflow.db.runs import insert_run
from taskflow.db.submission import submit_at_once
from taskflow.db.tasks import insert_task, remember_idempotency
from taskflow.engine.store import RunRow
from taskflow.ids import RunId
from tests.db.conftest import OWNER, World

#: SQLite knows no INSERT within another statement, and is called, not asked: there each row is a statement.
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

_TABLES = (Run, Task, Event, IdempotencyKey)


def _run(name: str) -> RunRow:
    return RunRow(
        id=RunId(f"run-{name}"), pipeline="agent_task", version=1, subject_kind="task", subject_id=f"task-{name}",
        number=1, owner_id=OWNER, step="queued", rev=0, step_entered_at=5.0, created_at=5.0,
    )  # fmt: skip


def _task(name: str) -> dict[str, Any]:
    return {
        "id": f"task-{name}", "owner_id": OWNER, "title": "t", "status": "queued", "labels": {"a": "b"},
        "repository": "r", "command": ["true"], "setup_command": None, "env": {"X": "1"}, "secrets_encrypted": b"\x00s",
        "push": True, "time_limit_s": 100.0, "priority": 3, "allow_node_fallback": False, "run_id": f"run-{name}",
        "run_number": 1,
    }  # fmt: skip


def _left(world: World, name: str) -> list[dict[str, Any]]:
    """What is in the tables of one submission, without what tells it from another."""
    wheres = (Run.id == f"run-{name}", Task.id == f"task-{name}", Event.run_id == f"run-{name}", None)
    found = []
    with world.database.read() as tx:
        for model, where in zip(_TABLES, wheres, strict=True):
            rows = select(model.__table__).where(IdempotencyKey.key == f"key-{name}" if where is None else where)
            found += [
                {column: str(value).replace(name, "*") for column, value in row._mapping.items()}
                for row in tx.execute(rows)
            ]
    for row in found:
        if "seq" in row:
            del row["id"], row["xact"]  # each is a transaction of its own
    return found


def test_one_statement_leaves_what_the_long_way_leaves(world: World) -> None:
    """Run, task, first event and idempotency key; and the row that the caller is shown."""

    def the_long_way(tx: Any) -> Any:
        insert_run(tx, _run("long"))
        row = insert_task(tx, _task("long"), actor="ada", now=5.0)
        remember_idempotency(tx, OWNER, "key-long", "hash", "task-long", 5.0)
        return row

    there = world.write(the_long_way)
    here = submit_at_once(
        world.database, _run("short"), _task("short"), key=("key-short", "hash"), actor="ada", now=5.0
    )

    assert _left(world, "short") == _left(world, "long")
    assert len(_left(world, "short")) == len(_TABLES)
    shown, expected = dict(here._mapping), dict(there._mapping)
    assert shown.pop("id") == "task-short" and shown.pop("run_id") == "run-short"
    assert {name: expected[name] for name in shown} == shown


def test_a_key_that_was_used_meanwhile_leaves_nothing_of_the_second(world: World) -> None:
    """Nothing half-written: neither its run, nor its task, nor its event."""
    submit_at_once(world.database, _run("one"), _task("one"), key=("key", "hash"), actor="ada", now=5.0)
    with pytest.raises(IntegrityError):
        submit_at_once(world.database, _run("two"), _task("two"), key=("key", "hash"), actor="ada", now=6.0)
    with world.database.read() as tx:
        assert [tx.execute(select(func.count()).select_from(model)).scalar_one() for model in _TABLES] == [1] * 4
