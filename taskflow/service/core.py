"""``Service``: what the web and the command line call. Each group of verbs is a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.clock import Clock
from taskflow.db.nodes import get_node, list_nodes, node_event, set_node_run
from taskflow.db.runs import get_run, insert_run, request_cancel
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.pipeline import Pipeline
from taskflow.errors import NotFound
from taskflow.ids import RunId, new_run_id
from taskflow.nodes.context import StepTools
from taskflow.nodes.machine import again
from taskflow.service.accounts import Accounts, Caller
from taskflow.service.admission import Admission
from taskflow.service.callbacks import Callbacks
from taskflow.service.explain import Explain
from taskflow.service.health import Health
from taskflow.service.providers import Providers
from taskflow.service.tasks import Tasks
from taskflow.service.timing import StoreClock
from taskflow.service.views import node_view
from taskflow.settings import Settings
from taskflow.vault import Vault


class Service:
    """The verbs: ``accounts``, ``tasks``, ``callbacks``, ``providers``, ``explain``, ``health``, and those about nodes."""

    def __init__(
        self,
        *,
        database: Database,
        control: Control,
        ringer: Ringer,
        vault: Vault,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
        clock: Clock,
        tools: StepTools,
    ) -> None:
        self._database = database
        self._ringer = ringer
        self.now = StoreClock(control, clock).now
        self.accounts = Accounts(database, clock)
        self.tasks = Tasks(database, control, ringer, tools, pipelines, self.now, Admission(settings, clock))
        self.callbacks = Callbacks(database, ringer, tools, self.now)
        self.providers = Providers(database, tools, self.now)
        self.explain = Explain(database, control, pipelines, tools, self.now)
        self.health = Health(database, control, settings, self.now, self.providers)

    def nodes(self, caller: Caller, *, with_destroyed: bool = False) -> list[dict[str, Any]]:
        """The caller's nodes, newest first."""
        now = self.now()
        with self._database.read() as tx:
            return [node_view(row, now) for row in list_nodes(tx, caller.owner_id, with_destroyed=with_destroyed)]

    def node(self, caller: Caller, node_id: str) -> dict[str, Any]:
        """One node of the caller. Raises ``NotFound``."""
        with self._database.read() as tx:
            row = get_node(tx, node_id, owner_id=caller.owner_id)
        if row is None:
            raise NotFound(f"no node {node_id}", fields={"node_id": "unknown"})
        return node_view(row, self.now())

    def destroy_node(self, caller: Caller, node_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask a node to drain and go: it takes no new workspace, waits for the live ones, then its server is destroyed.

        Repeating it changes nothing. Raises ``NotFound``.
        """

        def work(tx: Connection) -> tuple[Row[Any], RunId]:
            now = self.now()
            node = get_node(tx, node_id, owner_id=caller.owner_id)
            if node is None:
                raise NotFound(f"no node {node_id}", fields={"node_id": "unknown"})
            run = get_run(tx, node.run_id, lock=True)
            if run is not None and run.finished_at is not None and node.destroyed_at is None:
                # Its run gave the node up (status error): a further run tries the destruction again.
                run = again(run, new_run_id(), now)
                insert_run(tx, run, created_at=now)
                set_node_run(tx, node_id, run.id)
                return node, run.id
            if request_cancel(tx, node.run_id, actor=caller.actor, reason=reason or "requested", now=now):
                node_event(tx, caller.owner_id, node_id, node.run_id, node.status, now, destroy_requested=True)
            return node, RunId(node.run_id)

        node, run_id = self._database.write(work)
        self._ringer.ring([run_id])
        return node_view(node, self.now())
