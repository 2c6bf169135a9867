"""A node in status error may still have a server that costs money: its destruction is tried again, ever more rarely."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from taskflow.db.models import Node, Run
from taskflow.db.nodes import set_node_run
from taskflow.db.runs import get_run, insert_run
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId, new_run_id
from taskflow.nodes.machine import again
from taskflow.sweeps.items import Items

#: Seconds before the n-th further run: ten minutes, doubled each time, six hours at most.
_WAITS_S = (600.0, 1200.0, 2400.0, 4800.0, 9600.0, 19_200.0)
_LONGEST_WAIT_S = 21_600.0


def retry_error_nodes(items: Items, ringer: Ringer) -> dict[str, Any]:
    """Give a further run to each node whose last one gave up long enough ago. Who is not due is left out by the query."""
    now, standing = items.now(), (Node.status == "error", Node.destroyed_at.is_(None))
    rows = items.page(
        select(Node.id)
        .join(Run, Run.id == Node.run_id)
        .where(*standing, Run.finished_at.is_not(None), Run.finished_at + _wait_s() <= now),
        Node.id,
    )
    with items.database.read() as tx:
        in_error = tx.execute(select(func.count()).select_from(Node).where(*standing)).scalar_one()

    def treat(node_id: str) -> bool:
        run_id = items.database.write(lambda tx: _again(tx, node_id, now))
        ringer.ring([] if run_id is None else [run_id])
        return run_id is not None

    return {"in_error": in_error, **items.each(((row.id, row.id) for row in rows), treat)}


def _wait_s() -> ColumnElement[float]:
    return case(
        *((Run.number == number, wait_s) for number, wait_s in enumerate(_WAITS_S, start=1)), else_=_LONGEST_WAIT_S
    )


def _again(tx: Connection, node_id: str, now: float) -> RunId | None:
    """A further run that only destroys; None when somebody else was quicker."""
    run_id = tx.execute(select(Node.run_id).where(Node.id == node_id, Node.status == "error")).scalar()
    run = None if run_id is None else get_run(tx, run_id, lock=True)
    if run is None or run.finished_at is None:
        return None
    further = again(run, new_run_id(), now)
    insert_run(tx, further)
    set_node_run(tx, node_id, further.id)
    return further.id
