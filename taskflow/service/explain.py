"""``why``: what a task is waiting for, since when, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis
from sqlalchemy import Row

from taskflow.clock import isoformat
from taskflow.db import tasks as task_rows
from taskflow.db.listing import last_error
from taskflow.db.nodes import get_node
from taskflow.db.runs import get_run
from taskflow.db.session import Database
from taskflow.db.status import TERMINAL
from taskflow.db.workspaces import last_output_at
from taskflow.engine.control import Control
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.store import RunRow
from taskflow.nodes.boot import boot_said
from taskflow.nodes.context import StepTools
from taskflow.service.accounts import Caller
from taskflow.service.unheard import unheard, unheard_text

#: What a task in a step is doing, in a sentence.
_DOING = {
    "node_selection": "a node is being chosen",
    "waiting_for_capacity": "it waits for a free place on a node",
    "node_provisioning": "its node is being created",
    "node_agent_ready": "its node was created; the node's agent has not reported yet",
    "workspace_creation": "a place on the node is being taken",
    "workspace_dispatch": "the workspace is being handed to the node",
    "workspace_ready": "the node prepares the workspace (clone, setup); its ready callback is awaited",
    "agent_session": "the command is being started",
    "running": "the command runs; its outcome is awaited",
    "cleanup": "what exists is being cleaned up",
}
#: What a sentence about a run adds when its runner is not simply alive.
RUNNER_SAID = {
    "overdue": "; its alarm is overdue, the rescue will ring it",
    "missing": "; its control state is being rebuilt",
}


class Explain:
    """Answers from the row first, then from the control state when Redis is there."""

    def __init__(
        self,
        database: Database,
        control: Control,
        pipelines: Mapping[str, Pipeline],
        tools: StepTools,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._control = control
        self._pipelines = pipelines
        self._tools = tools
        self._settings = tools.settings
        self._now = now

    def why(self, caller: Caller, task_id: str) -> dict[str, Any]:
        """What the task waits for. Keys: summary (a sentence), status, step, awaiting, since, until, then,
        next_look_in_s, runner (alive, overdue, missing, unknown, none), attempt, last_error, node, last_output_at,
        placement, unreachable. At rest: where it ran and why there, too."""
        now = self._now()
        with self._database.read() as tx:
            task = task_rows.get_task(tx, caller.owner_id, task_id)
            run = get_run(tx, task.run_id) if task.run_id else None
            node = get_node(tx, task.node_id) if task.node_id else None
            unknown = unheard(tx, self._tools, task, node)
            last = None if run is None else last_error(tx, run.id)
            output_at = last_output_at(tx, run.id) if run is not None and run.step == "running" else None
        if run is None or run.finished_at is not None:
            return self._at_rest(task, node)
        found = control_state(self._control, run, overdue_s=self._settings.alarm_overdue_s)
        waited_s = max(0.0, now - run.step_entered_at)
        return {
            "summary": self._summary(task, run, found) + self._boot(node) + unheard_text(unknown),
            "status": task.status,
            "step": run.step,
            "awaiting": run.awaiting,
            "since": isoformat(run.step_entered_at),
            "waited_s": round(waited_s, 1),
            "until": isoformat(run.deadline_at),
            "then": self._then(run),
            **found,
            "cancel_requested": run.cancel_requested_at is not None,
            "last_error": None if last is None or last.step != run.step else error_view(last),
            "node": _node_view(node),
            "last_output_at": isoformat(output_at),
            "placement": task.placement,
            "unknown_since": None if unknown is None else unknown["since"],
            "unreachable": unknown,
        }

    def _at_rest(self, task: Row[Any], node: Row[Any] | None) -> dict[str, Any]:
        if task.status in TERMINAL:
            summary = f"nothing: it is {task.status}"
        else:
            summary = f"it is a {task.status}: it waits for somebody to run it"
        if task.error:
            summary += f" ({task.error['message']})"
        return {
            "summary": summary, "status": task.status, "step": None, "awaiting": None, "since": None, "until": None,
            "then": None, "runner": "none", "error": task.error, "placement": task.placement, "node": _node_view(node),
        }  # fmt: skip

    def _summary(self, task: Row[Any], run: RunRow, found: Mapping[str, Any]) -> str:
        pipeline = self._pipelines.get(run.pipeline)
        if pipeline is None or run.version > pipeline.version:
            return f"its state was written by a newer release (version {run.version}); a newer worker will take it up"
        said = _DOING.get(run.step, f"it is at {run.step}")
        if run.step == "waiting_for_capacity" and (task.placement or {}).get("reason"):
            said += f": {task.placement['reason']}"
        if run.cancel_requested_at is not None and run.step not in pipeline.closing:
            said = "a cancel was requested; the runner acts on it at its next look"
        elif task.status in TERMINAL:
            said = f"it is {task.status}; {said}"
        return f"{said}{RUNNER_SAID.get(found['runner'], '')}"

    def _boot(self, node: Row[Any] | None) -> str:
        """How far the boot of the server is, while its agent is waited for and the server says it."""
        spec = None if node is None else self._tools.catalogue.spec(node.provider)
        if node is None or node.status != "awaiting_agent" or spec is None or not spec.needs_user_data:
            return ""
        return f"; {boot_said(node)}" if node.boot_stage else "; its server has not said yet that it booted"

    def _then(self, run: RunRow) -> str:
        pipeline = self._pipelines.get(run.pipeline)
        step = pipeline.step(run.step) if pipeline else None
        if run.deadline_at is None or step is None:
            return "it goes on when this is done"
        if pipeline is not None and run.step in pipeline.closing:
            return "it gives up: the run ends, and the workspace may still be on the node"
        if run.step == "waiting_for_capacity":
            return "it fails with the reason why it waits"
        if step.expired is not None and run.step != "node_agent_ready":
            return "the node is asked once; if that does not help, the step fails, and cleanup begins"
        return "the step fails, and cleanup begins"


def _node_view(node: Row[Any] | None) -> dict[str, Any] | None:
    if node is None:
        return None
    return {
        "id": node.id,
        "status": node.status,
        "address": node.address,
        "boot_stage": node.boot_stage,
        "unreachable_since": isoformat(node.unreachable_since),
    }


def control_state(control: Control, run: RunRow, *, overdue_s: float) -> dict[str, Any]:
    """How a run stands in the control state. Keys: runner (alive, overdue, missing, unknown), in_a_turn,
    next_look_in_s, attempt."""
    try:
        state = control.describe(run.id)
    except redis.RedisError:
        return {"runner": "unknown", "next_look_in_s": None, "attempt": None}
    alarm_at, fields = state["alarm_at"], state["state"]
    if not fields or alarm_at is None:
        runner = "missing"
    elif state["now"] - alarm_at > overdue_s:
        runner = "overdue"
    else:
        runner = "alive"
    next_look_s = None if not fields else round(max(0.0, float(fields["due"]) - state["now"]), 1)
    return {
        "runner": runner,
        "in_a_turn": state["lease"] is not None,
        "next_look_in_s": next_look_s,
        "attempt": int(fields.get("attempt", 0)) + 1 if fields else None,
    }


def error_view(row: Row[Any]) -> dict[str, Any]:
    """A failed attempt."""
    return {
        "step": row.step, "attempt": row.attempt, "code": row.code, "message": row.error.get("message"),
        "at": isoformat(row.at), "retry_in_s": row.retry_in_s,
    }  # fmt: skip
