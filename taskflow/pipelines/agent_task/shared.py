"""What the steps of an agent task share: reading its rows, and the errors about its node."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from taskflow.db.nodes import get_node
from taskflow.db.tasks import task_of_run
from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError
from taskflow.nodes.context import StepTools
from taskflow.nodes.ordering import NODE_DESTROYED


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
        """The node of the run. Raises ``PermanentError``: ``node_lost`` when it is destroyed, ``node_destroyed`` when
        somebody lets it be destroyed with what lives on it."""
        node = self._node(ctx)
        if node is not None and (node.error or {}).get("code") == NODE_DESTROYED:
            raise PermanentError(node.error["message"], code=NODE_DESTROYED, advice=node.error.get("advice"))
        if node is None or node.destroyed_at is not None:
            cause = (node.error or {}).get("message") if node is not None else None
            raise PermanentError(
                f"node {ctx.results.get('node_id')} is gone" + (f": {cause}" if cause else ""),
                code="node_lost",
                advice="run the task again: taskflow rerun",
            )
        return node
