"""What pages show beside the things themselves: a task's runs, a node's tasks, a pipeline's steps, what is set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, select

from taskflow.clock import isoformat
from taskflow.db.models import AgentSession, Run, Task, Workspace
from taskflow.db.nodes import get_node
from taskflow.db.session import Database
from taskflow.db.tasks import get_task
from taskflow.engine.pipeline import Pipeline
from taskflow.errors import NotFound
from taskflow.logs import mask_text
from taskflow.service.accounts import Caller
from taskflow.service.pipelines import step_rows
from taskflow.settings import SET_BY_STACK, Settings, table
from taskflow.words import number

RUNS_MAX = 50
_OF_RUN = (
    "id", "number", "step", "created_at", "finished_at", "deadline_at", "awaiting", "error", "cancel_reason",
    "cancel_requested_by",
)  # fmt: skip


class Lookups:
    """Reads only; what belongs to an owner is asked for with the owner."""

    def __init__(
        self,
        database: Database,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
    ) -> None:
        self._database = database
        self._pipelines = pipelines
        self._settings = settings

    def runs(self, caller: Caller, task_id: str, named: str | None = None) -> list[dict[str, Any]]:
        """The last ``RUNS_MAX`` runs of a task, newest first, each with its session and its node; after them the one that
        is ``named``, if it is an older one. Raises ``NotFound``."""
        statement = (
            select(
                *(getattr(Run, name) for name in _OF_RUN),
                Workspace.node_id.label("node_id"),
                AgentSession.started_at.label("session_started_at"),
                AgentSession.ended_at.label("session_ended_at"),
                AgentSession.outcome.label("session_outcome"),
                AgentSession.log_bytes.label("log_bytes"),
            )
            .outerjoin(Workspace, Workspace.run_id == Run.id)
            .outerjoin(AgentSession, AgentSession.run_id == Run.id)
            .where(Run.subject_kind == "task", Run.subject_id == task_id, Run.owner_id == caller.owner_id)
        )
        with self._database.read() as tx:
            get_task(tx, caller.owner_id, task_id)
            rows = list(tx.execute(statement.order_by(Run.number.desc()).limit(RUNS_MAX)))
            if named is not None and all(row.id != named for row in rows):
                rows += tx.execute(statement.where(Run.id == named))
        return [
            {
                "id": row.id, "number": row.number, "step": row.step, "node_id": row.node_id,
                "created_at": isoformat(row.created_at), "finished_at": isoformat(row.finished_at),
                "deadline_at": isoformat(row.deadline_at) if row.finished_at is None else None,
                "awaiting": row.awaiting, "error": row.error, "cancel_reason": row.cancel_reason,
                "cancel_requested_by": row.cancel_requested_by,
                "session_started_at": isoformat(row.session_started_at),
                "session_ended_at": isoformat(row.session_ended_at),
                "exit_code": (row.session_outcome or {}).get("exit_code"), "log_bytes": row.log_bytes,
            }
            for row in rows
        ]  # fmt: skip

    def tasks_on(self, caller: Caller, node_id: str, limit: int = 50) -> list[dict[str, Any]]:
        """Tasks that have or had a workspace on a node, the live ones first. Raises ``NotFound``."""
        with self._database.read() as tx:
            if get_node(tx, node_id, owner_id=caller.owner_id) is None:
                raise NotFound(f"no node {node_id}", fields={"node_id": "unknown"})
            rows = tx.execute(
                select(
                    Task.id, Task.title, Task.status, Workspace.status.label("workspace"), Workspace.reserved_at,
                    Workspace.released_at,
                )
                .join(Task, and_(Task.id == Workspace.task_id))
                .where(Workspace.node_id == node_id, Workspace.owner_id == caller.owner_id)
                .order_by(Workspace.released_at.is_not(None), Workspace.reserved_at.desc())
                .limit(limit)
            ).all()  # fmt: skip
        return [
            {
                "id": row.id, "title": row.title, "status": row.status, "workspace": row.workspace,
                "reserved_at": isoformat(row.reserved_at), "released_at": isoformat(row.released_at),
            }
            for row in rows
        ]  # fmt: skip

    def steps(self, pipeline: str = "agent_task") -> list[dict[str, Any]]:
        """The table of steps of a pipeline: ``name``, ``skip``, ``closing``, ``guarded``; empty for one that is unknown."""
        found = self._pipelines.get(pipeline)
        return [] if found is None else step_rows(found)

    def settings(self) -> list[dict[str, Any]]:
        """The settings in force and where each came from; of a secret one only whether it is set."""
        by_stack = os.environ.get(SET_BY_STACK, "").split(",")
        found = []
        for row in table():
            value = getattr(self._settings, row.name)
            is_default = value == row.default
            source = "default" if is_default else "stack" if row.env in by_stack else "environment"
            shown = ("not set" if is_default else "set, not shown") if row.secret else _shown(value)
            found.append(
                {
                    "name": row.env, "value": shown, "unit": row.unit, "help": row.help, "secret": row.secret,
                    "default": _shown(row.default), "source": source,
                }
            )  # fmt: skip
        return found

    @property
    def flower_url(self) -> str:
        """Where browsers reach Flower, without a slash at its end; empty: nobody said where."""
        return self._settings.flower_url.rstrip("/")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    # Not 2.592e+06: nobody reads that as thirty days.
    return number(value) if isinstance(value, float) else mask_text(str(value))
