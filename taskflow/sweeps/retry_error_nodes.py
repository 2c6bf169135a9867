"""A node in status error may still have a server that costs money: its destruction is tried again, ever more rarely."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from taskflow.db.models import Node, Run
from taskflow.db.nodes import set_node_run
from taskflow.db.runs import get_run, insert_run
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId, new_run_id
from taskflow.nodes.machine import again

_FIRST_WAIT_S = 600.0
_LONGEST_WAIT_S = 6 * 3600.0


def retry_error_nodes(database: Database, ringer: Ringer, *, now: float, limit: int) -> dict[str, Any]:
    """Give a further run to each node whose last one gave up long enough ago: 10 minutes, doubled each time, 6 hours."""
    with database.read() as tx:
        rows = tx.execute(
            select(Node.id, Run.number, Run.finished_at)
            .join(Run, Run.id == Node.run_id)
            .where(Node.status == "error", Node.destroyed_at.is_(None), Run.finished_at.is_not(None))
            .order_by(Run.finished_at)
            .limit(limit)
        ).all()
    due = [row.id for row in rows if now >= row.finished_at + _wait_s(row.number)]
    runs = [database.write(partial(_again, node_id=node_id, now=now)) for node_id in due]
    tried = [run_id for run_id in runs if run_id is not None]
    ringer.ring(tried)
    return {"in_error": len(rows), "tried_again": len(tried)}


def _wait_s(number: int) -> float:
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(number - 1, 10))


def _again(tx: Connection, *, node_id: str, now: float) -> RunId | None:
    """A further run that only destroys; None when somebody else was quicker."""
    run_id = tx.execute(select(Node.run_id).where(Node.id == node_id, Node.status == "error")).scalar()
    run = None if run_id is None else get_run(tx, run_id, lock=True)
    if run is None or run.finished_at is None:
        return None
    further = again(run, new_run_id(), now)
    insert_run(tx, further, created_at=now)
    set_node_run(tx, node_id, further.id)
    return further.id
