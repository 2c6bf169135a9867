"""With ten thousand tasks the pages are as small and ask as little as with ten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from taskflow.db.models import Run, Task
from tests.dashboard.conftest import See
from tests.web.world import World

pytestmark = pytest.mark.usefixtures("today")

MANY = 10_000
PAGE_BYTES_MAX = 200_000
#: Path -> statements it may ask, sign-in included.
STATEMENTS_MAX = {"/": 16, "/tasks": 3, "/tasks?status=failed": 3, "/nodes": 7, "/runs": 3, "/errors": 6, "/usage": 5}


@pytest.fixture
def many(world: World) -> list[str]:
    """Ten thousand tasks of one owner, of all kinds, with the longest titles; their ids."""
    owner_id = world.row(Task, world.submit()["id"]).owner_id
    now = world.clock.now()
    kinds = ("completed", "failed", "queued", "in_progress")

    def work(tx: Connection) -> list[str]:
        tasks, runs = [], []
        for number in range(MANY):
            status, at = kinds[number % 4], now - number * 8
            ended = at + 5 if status in ("completed", "failed") else None
            error = {"code": "exit", "message": "m" * 500} if status == "failed" else None
            tasks.append(
                {
                    "id": f"task-{number:026d}", "owner_id": owner_id, "title": "t" * 500, "status": status, "priority": 0,
                    "project": "p" * 64, "labels": {}, "repository": "/r", "command": ["true"], "env": {}, "push": True,
                    "time_limit_s": 1.0, "run_id": f"run-{number:026d}", "run_number": 1, "created_at": at,
                    "updated_at": at, "completed_at": ended, "error": error,
                }
            )  # fmt: skip
            runs.append(
                {
                    "id": f"run-{number:026d}", "owner_id": owner_id, "pipeline": "agent_task", "version": 1,
                    "subject_kind": "task", "subject_id": f"task-{number:026d}", "number": 1, "step": "running",
                    "step_entered_at": at, "results": {}, "created_at": at, "finished_at": ended,
                }
            )  # fmt: skip
        tx.execute(insert(Run), runs)
        tx.execute(insert(Task), tasks)
        return [task["id"] for task in tasks]

    return world.database.write(work)


@contextmanager
def _counted(world: World) -> Iterator[list[str]]:
    said: list[str] = []

    def on_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            said.append(statement)

    event.listen(world.database.engine, "before_cursor_execute", on_statement)
    try:
        yield said
    finally:
        event.remove(world.database.engine, "before_cursor_execute", on_statement)


def test_pages_stay_small_and_ask_little(world: World, see: See, many: list[str]) -> None:
    """A page has a bounded number of rows, and asks for them with a bounded number of statements."""
    for path, most in STATEMENTS_MAX.items():
        see(path)  # what is asked once in a process is not asked again
        with _counted(world) as said:
            page = see(path)
        assert len(page.html) < PAGE_BYTES_MAX, path
        assert len(said) <= most, (path, said)


def test_a_task_among_many_asks_little(world: World, see: See, many: list[str]) -> None:
    """Its page costs the same however many others there are."""
    see(f"/tasks/{many[0]}")
    with _counted(world) as said:
        page = see(f"/tasks/{many[0]}")
    assert len(page.html) < PAGE_BYTES_MAX and len(said) <= 16, said
