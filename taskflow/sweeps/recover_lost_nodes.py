"""Backup of the node machine's alarms: every node that stands has a run that is looked at, so every state has an exit.

Who covers what: the rescue rebuilds control state that is lost, whatever the run; ``warm_nodes`` rings warm nodes whose
time is over; ``retry_error_nodes`` has those in status error. Here are the others: nodes whose machine did not look for
long, nodes that are coming and past their limits, and nodes that stand although no run is open that would ever end them
(L-13, L-58).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from taskflow.db.models import Node, Run
from taskflow.db.nodes import get_node, node_event
from taskflow.db.runs import get_run, insert_run, to_row
from taskflow.db.session import Database
from taskflow.db.status import NODE_COMING
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.store import RunRow
from taskflow.ids import NodeId, RunId, new_run_id
from taskflow.nodes.machine import again, new_node_run
from taskflow.settings import Settings
from taskflow.sweeps.items import Items


@dataclass(frozen=True)
class LostNodes:
    """The sweep. It never takes a lease: it rings, or gives a run by a guarded update."""

    database: Database
    control: Control
    ringer: Ringer
    settings: Settings

    def __call__(self, items: Items) -> dict[str, Any]:
        """One page of nodes that stand, each with its run. Raises when Redis is away: then nothing can be told."""
        rows = items.page(
            select(
                Node.id.label("node_id"), Node.status, Node.created_at.label("node_created_at"), Run.id.label("open_run"),
                Run.__table__,
            )
            .outerjoin(Run, (Run.id == Node.run_id) & Run.finished_at.is_(None))
            # A node in status error has no open run; what is to become of it is another sweep's.
            .where(Node.destroyed_at.is_(None), or_(Node.status != "error", Run.id.is_not(None))),
            Node.id, column="node_id",
        )  # fmt: skip
        counts = {"rung": 0, "ended": 0}

        def treat(row: Row[Any]) -> bool:
            now = items.now()
            if row.open_run is None:
                ended = self._end(row.node_id, now)
                counts["ended"] += ended
                return ended
            run = to_row(row)
            if not (self._overdue(run) or self._past_limit(row, run, now)):
                return False
            self.ringer.ring([run.id])
            counts["rung"] += 1
            return True

        return {"looked_at": len(rows), **items.each(((row.node_id, row) for row in rows), treat), **counts}

    def _overdue(self, run: RunRow) -> bool:
        """An alarm that should have fired long ago. One that is missing is the rescue's."""
        found = self.control.describe(run.id)
        at = found["alarm_at"]
        return at is not None and bool(found["now"] - at > self.settings.alarm_overdue_s)

    def _past_limit(self, row: Row[Any], run: RunRow, now: float) -> bool:
        """Its step should have been given up by its own deadline, or it is coming for longer than anything may come."""
        grace_s = self.settings.alarm_overdue_s
        if run.deadline_at is not None and row.status != "warm" and now > run.deadline_at + grace_s:
            return True
        coming_s = self.settings.provision_timeout_s + self.settings.agent_ready_timeout_s
        return row.status in NODE_COMING and now > row.node_created_at + coming_s + grace_s

    def _end(self, node_id: str, now: float) -> bool:
        """A run that drains the node and destroys its server; False when it has one again, or is gone."""
        run_id = self.database.write(lambda tx: _give_run(tx, node_id, now))
        if run_id is None:
            return False
        self.ringer.ring([run_id])
        return True


def _give_run(tx: Connection, node_id: str, now: float) -> RunId | None:
    before = get_node(tx, node_id)
    last = None if before is None else get_run(tx, before.run_id, lock=True)
    if before is None or (last is not None and last.finished_at is None):
        return None
    further = new_node_run(new_run_id(), NodeId(node_id), before.owner_id, now)
    further = replace(further if last is None else again(last, further.id, now), step="drain")
    # In one statement: still this run's, and from here on nothing new comes to it.
    taken = tx.execute(
        update(Node)
        .where(
            Node.id == node_id, Node.run_id == before.run_id, Node.destroyed_at.is_(None), Node.status != "error",
        )
        .values(run_id=further.id, status="draining", warm_until=None)
    )  # fmt: skip
    if taken.rowcount != 1:
        return None
    insert_run(tx, further)
    node_event(tx, before.owner_id, node_id, further.id, "draining", now, reason="no run was left that would end it")
    return further.id
