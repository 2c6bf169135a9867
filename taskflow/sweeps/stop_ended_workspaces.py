"""What ended must not go on: slots that ended runs still hold, and workspaces that stand on a node although theirs is over.

A run releases its workspace by itself, after its node deleted it. Two things are left to this sweep: a slot whose run ended
without giving it back, and a workspace that stayed on its node because that could not be reached for the whole time of the
cleanup (L-95). The proof is the node's own heartbeat, later than the release, and the rows read again before the call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, select

from taskflow.db.events import append_event
from taskflow.db.models import Node, Run, Workspace
from taskflow.db.nodes import get_node
from taskflow.db.runs import get_run
from taskflow.db.workspaces import end_session_effect, release_workspace_effect
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId, run_id_of_workspace, session_id_of
from taskflow.nodes.admission import allocate_effect
from taskflow.nodes.context import StepTools
from taskflow.sweeps.items import Items

#: Higher than the fence of any run: for a workspace of which nothing is known here, so that nobody writes after it.
LAST_FENCE = 2**53
#: Slots are looked at by so many pages at once: nearly all of them are held by runs that are open.
_HELD_PAGES = 10
_WORKSPACE_ID = re.compile(r"ws-[0-9a-z-]{1,60}\Z")
_WORKSPACE = (
    select(
        Workspace.__table__, Run.finished_at.label("run_finished_at"), Run.rev.label("run_rev"),
        Run.number.label("run_number"),
    )
    .join(Run, Run.id == Workspace.run_id)
)  # fmt: skip


@dataclass(frozen=True)
class EndedWorkspaces:
    """The sweep. A workspace whose run is open is its run's business alone, whatever a node says of it."""

    tools: StepTools
    ringer: Ringer

    def __call__(self, items: Items) -> dict[str, Any]:
        """One page of slots that ended runs hold, and what one page of nodes reports too much."""
        held = replace(items, limit=_HELD_PAGES * items.limit).page(
            select(Workspace.id, Run.finished_at)
            .join(Run, Run.id == Workspace.run_id)
            .where(Workspace.released_at.is_(None)),
            Workspace.id,
        )
        found: dict[str, Callable[[], bool]] = {
            row.id: partial(self._release, row.id, items.now) for row in held if row.finished_at is not None
        }
        for node in self._nodes(items):
            for workspace_id in items.awake(self._left_on(node)):
                found.setdefault(workspace_id, partial(self._delete_left, node.id, workspace_id, items.now))
        return items.each(found.items(), lambda treat: treat())

    # --- slots

    def _release(self, workspace_id: str, now: Callable[[], float]) -> bool:
        """Delete it on its node, unless that is gone, then give the slot back to whoever waits."""
        with self.tools.database.read() as tx:
            workspace = tx.execute(_WORKSPACE.where(Workspace.id == workspace_id)).first()
            node = None if workspace is None else get_node(tx, workspace.node_id)
        if workspace is None or workspace.released_at is not None or workspace.run_finished_at is None:
            return False
        if node is not None and node.destroyed_at is None and node.address is not None:
            self.tools.agent(node, now()).delete_workspace(workspace.id, workspace.run_rev + 1)
        self.ringer.ring(self.tools.database.write(lambda tx: self._released(tx, workspace, now())))
        return True

    def _released(self, tx: Connection, workspace: Row[Any], now: float) -> list[RunId]:
        rings: list[RunId] = []
        run_id = RunId(workspace.run_id)
        get_run(tx, run_id, lock=True)
        for effect in (
            release_workspace_effect(workspace.id, now=now),
            end_session_effect(session_id_of(run_id), {"outcome": "stopped"}, now=now),
            allocate_effect(self.tools, workspace.owner_id, now),
        ):
            rings += effect(tx) or ()
        return rings

    # --- what is left on nodes

    def _nodes(self, items: Items) -> list[Row[Any]]:
        """Nodes that are heard of now. What an older heartbeat says is no proof of anything."""
        return items.page(
            select(Node.__table__).where(
                Node.destroyed_at.is_(None), Node.address.is_not(None),
                Node.last_heartbeat_at >= items.now() - self.tools.settings.heartbeat_stale_s,
            ),
            Node.id, of="nodes",
        )  # fmt: skip

    def _left_on(self, node: Row[Any]) -> list[str]:
        """Of the workspaces that the node reports, those that have no business there any more."""
        reported = [one for one in (node.heartbeat or {}).get("workspaces", ()) if _is_workspace_id(one)]
        if not reported:
            return []
        with self.tools.database.read() as tx:
            rows = {row.id: row for row in tx.execute(_WORKSPACE.where(Workspace.id.in_(reported)))}
            # A workspace has the id of its run; a run that is known and open speaks for it even where its row is not found.
            runs = [run_id_of_workspace(one) for one in reported if one not in rows]
            still_open = set(tx.execute(select(Run.id).where(Run.id.in_(runs), Run.finished_at.is_(None))).scalars())
        return [
            one for one in reported
            if run_id_of_workspace(one) not in still_open and (one not in rows or self._is_over(rows[one], node))
        ]  # fmt: skip

    def _is_over(self, workspace: Row[Any], node: Row[Any]) -> bool:
        """Released, its run ended, and reported all the same by a heartbeat that was made after the release."""
        if workspace.released_at is None or workspace.run_finished_at is None:
            return False
        # A heartbeat may have been under way while the node deleted it.
        return bool(node.last_heartbeat_at > workspace.released_at + self.tools.settings.heartbeat_interval_s)

    def _delete_left(self, node_id: str, workspace_id: str, now: Callable[[], float]) -> bool:
        """Read everything again, then have the node delete it, with a fence above every earlier one."""
        with self.tools.database.read() as tx:
            node = get_node(tx, node_id)
            workspace = tx.execute(_WORKSPACE.where(Workspace.id == workspace_id)).first()
        if node is None or node.destroyed_at is not None or workspace_id not in self._left_on(node):
            return False
        fence = LAST_FENCE if workspace is None else workspace.run_rev + 1
        self.tools.agent(node, now()).delete_workspace(workspace_id, fence)

        def note(tx: Connection) -> None:
            get_run(tx, node.run_id, lock=True)
            append_event(
                tx, owner_id=node.owner_id, subject_kind="node", subject_id=node.id, run_id=node.run_id,
                kind="workspace_deleted", actor="stop_ended_workspaces", at=now(), data={"workspace_id": workspace_id},
            )  # fmt: skip

        self.tools.database.write(note)
        return True


def _is_workspace_id(reported: Any) -> bool:
    return isinstance(reported, str) and _WORKSPACE_ID.match(reported) is not None
