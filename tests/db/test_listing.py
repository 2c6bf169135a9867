"""Pages of lists, on both databases: any cursor is a place, and a run is found by the status that it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db import listing, nodes, own_runs, waiting
from taskflow.db.models import Run
from taskflow.db.status import RUN_STATUSES
from taskflow.service.pages import decode_cursor
from tests.db.conftest import OWNER, World

pytestmark = pytest.mark.integration

#: The largest number and the furthest time that a cursor may say.
_NUMBER, _AT = "9" * 18, "9" * 12

LISTS: dict[str, Callable[[Any], Any]] = {
    "runs of a task": lambda tx: listing.list_runs(
        tx, OWNER, "task-1", limit=5, before=decode_cursor(_NUMBER, int)[0]),
    "failed attempts": lambda tx: listing.list_errors(tx, OWNER, limit=5, before=decode_cursor(_NUMBER, int)[0]),
    "tasks": lambda tx: listing.list_tasks(tx, OWNER, limit=5, before=decode_cursor(f"{_AT}.5~x", float, str)),
    "who waits": lambda tx: waiting.waiting_page(
        tx, OWNER, limit=5, ageing_s=60.0, after=decode_cursor(f"-{_AT}.5~x", float, str)),
    "nodes": lambda tx: nodes.list_nodes(tx, OWNER, limit=5, before="z" * 80),
    "own runs": lambda tx: own_runs.list_own_runs(tx, OWNER, limit=5, before="z" * 80),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_any_cursor_of_the_form_is_a_place(world: World, name: str) -> None:
    """Also one that no row ever had: it is no fault of a store."""
    with world.database.read() as tx:
        LISTS[name](tx)


def test_runs_are_found_by_the_status_that_they_show(world: World) -> None:
    """What is asked in SQL and what is said of the row is the same, in every state that a row can have."""
    states: dict[str, dict[str, Any]] = {
        "run-1": {}, "run-2": {"awaiting": "go"}, "run-3": {"finished_at": 2.0},
        "run-4": {"finished_at": 2.0, "error": {"code": "no", "message": "no"}},
        "run-5": {"finished_at": 2.0, "error": {"code": "cancelled", "message": "enough"}, "awaiting": "go"},
        "run-6": {"error": {"code": "no", "message": "it closes"}, "awaiting": "closed"},
    }  # fmt: skip

    def arrange(tx: Any) -> None:
        for run_id, state in states.items():
            own_runs.insert_own_run(tx, run_id, OWNER, subject=None, key=None)
            if state:
                tx.execute(update(Run).where(Run.id == run_id).values(**state))

    for run_id in states:
        world.run(run_id, f"own-{run_id}", own_runs.SUBJECT_KIND)
    world.write(arrange)
    with world.database.read() as tx:
        rows = own_runs.list_own_runs(tx, OWNER, limit=10)
        assert [row.id for row in rows] == sorted(states, reverse=True)
        for status in RUN_STATUSES:
            found = own_runs.list_own_runs(tx, OWNER, own_runs.RunFilter((status,)), limit=10)
            assert [row.id for row in found] == [row.id for row in rows if own_runs.status_of(row) == status] != []
        assert own_runs.open_counts(tx, OWNER, mine_max=2, all_max=10) == (2, 3)
