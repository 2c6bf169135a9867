"""What the steps of an agent task share: reading its rows, the errors about its node, and what follows from a lost one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from taskflow.db.nodes import get_node
from taskflow.db.tasks import RERUN_TASK, task_of_run
from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError
from taskflow.nodes.context import StepTools
from taskflow.nodes.liveness import NODE_LOST, is_lost, verdict_at
from taskflow.nodes.ordering import NODE_DESTROYED

LOST_ADVICE = "its work may be incomplete; run it again: taskflow rerun"
#: What a transaction promises: kinds and payloads of outbox rows.
Promises = tuple[tuple[str, Mapping[str, Any]], ...]


class TaskSteps:
    """Base of the groups of steps."""

    def __init__(self, tools: StepTools) -> None:
        self._tools = tools
        self._settings = tools.settings

    def _task(self, ctx: StepContext) -> Row[Any]:
        with self._tools.database.read() as tx:
            task = task_of_run(tx, ctx.run.id)
        if task is None:
            raise PermanentError(f"there is no task of run {ctx.run.id}", code="task_missing")
        return task

    def _node(self, ctx: StepContext) -> Row[Any] | None:
        node_id = ctx.results.get("node_id")
        if node_id is None:
            return None
        with self._tools.database.read() as tx:
            return get_node(tx, node_id)

    def _living_node(self, ctx: StepContext) -> Row[Any]:
        """The node of the run. Raises ``PermanentError``: ``node_lost`` when it is lost or destroyed, ``node_destroyed``
        when somebody lets it be destroyed with what lives on it."""
        node = self._node(ctx)
        if node is not None and (node.error or {}).get("code") == NODE_DESTROYED:
            raise PermanentError(node.error["message"], code=NODE_DESTROYED, advice=node.error.get("advice"))
        if node is not None and is_lost(node):
            raise PermanentError(
                node.error["message"], code=NODE_LOST, advice=LOST_ADVICE, detail=node.error.get("detail")
            )
        if node is None or node.destroyed_at is not None:
            cause = (node.error or {}).get("message") if node is not None else None
            raise PermanentError(
                f"node {ctx.results.get('node_id')} is gone" + (f": {cause}" if cause else ""),
                code=NODE_LOST,
                advice=LOST_ADVICE,
            )
        return node

    def _verdict_is_due(self, ctx: StepContext) -> bool:
        """Whether the node is not heard of, and it will be known for sure later what became of what runs on it."""
        node = self._node(ctx)
        if node is None or is_lost(node) or node.unreachable_since is None:
            return False
        due_at = verdict_at(
            node.last_heartbeat_at, stale_s=self._settings.heartbeat_stale_s, lost_s=self._tools.lost_after_s(node),
            agent_answers=None,
        )  # fmt: skip
        return due_at is not None and ctx.now <= due_at + self._settings.heartbeat_stale_s

    def _after_node_loss(self, ctx: StepContext, error: Mapping[str, Any]) -> tuple[Mapping[str, Any], Promises]:
        """The error as it is stored, and the promise to run the task again when its user allowed that.

        Nobody else counts while this run is the task's: what is read here holds when it is written.
        """
        if error["code"] != NODE_LOST:
            return error, ()
        task = self._task(ctx)
        if task.node_loss_reruns >= task.node_loss_reruns_max:
            return error, ()
        number = f"{task.node_loss_reruns + 1} of {task.node_loss_reruns_max}"
        promised = {"task_id": task.id, "run_id": ctx.run.id}
        return {**error, "advice": f"nothing: it is run again by itself ({number})"}, ((RERUN_TASK, promised),)
