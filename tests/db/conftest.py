"""Rows that the tests of SQL need."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from taskflow.db.models import Node, Owner
from taskflow.db.runs import insert_run
from taskflow.db.session import Database
from taskflow.db.tasks import insert_task
from taskflow.engine.store import RunRow
from taskflow.ids import RunId

OWNER = "owner-1"


class World:
    """One owner's rows on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.write(lambda tx: tx.execute(insert(Owner).values(id=OWNER, name=OWNER, created_at=0.0)))

    def write(self, work: Callable[[Any], Any]) -> Any:
        """One transaction."""
        return self.database.write(work)

    def task(self, task_id: str, status: str = "queued", **fields: Any) -> str:
        """A task in any status."""
        values = {
            "id": task_id, "owner_id": OWNER, "title": "t", "status": status, "labels": {}, "repository": "r",
            "command": ["true"], "env": {}, "push": False, "time_limit_s": 100.0, **fields,
        }  # fmt: skip
        if status in ("completed", "failed", "cancelled"):
            values.setdefault("completed_at", 1.0)
        self.write(lambda tx: insert_task(tx, values, actor="ada", now=1.0))
        return task_id

    def run(self, run_id: str, subject: str, kind: str = "task", *, step: str = "running", **fields: Any) -> RunRow:
        """An open run of a subject."""
        row = RunRow(
            id=RunId(run_id), pipeline="agent_task", version=1, subject_kind=kind, subject_id=subject,
            number=fields.pop("number", 1), owner_id=OWNER, step=step, rev=0, step_entered_at=1.0, created_at=1.0, **fields,
        )  # fmt: skip
        self.write(lambda tx: insert_run(tx, row))
        return row

    def node(self, node_id: str = "node-1", *, status: str = "active", slots: int = 4) -> str:
        """A node with its run."""
        self.run(f"run-{node_id}", node_id, "node", step="active")
        self.write(
            lambda tx: tx.execute(
                insert(Node).values(
                    id=node_id, owner_id=OWNER, run_id=f"run-{node_id}", name=node_id, provider="local", label=node_id,
                    status=status, slots=slots, created_at=1.0, placements=0,
                )
            )
        )  # fmt: skip
        return node_id


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    """One owner on each of the two databases."""
    yield World(Database(engine))


def race(work: Callable[[int], Any], count: int) -> list[Any]:
    """``work(n)`` in ``count`` threads that start together; what each returned or raised."""
    start = threading.Barrier(count)
    answers: list[Any] = []

    def one(number: int) -> None:
        start.wait(20)
        try:
            answers.append(work(number))
        except Exception as error:
            answers.append(error)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == count
    return answers
