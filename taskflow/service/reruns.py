"""When a run that was lost with its node is over for good, so that a further one may begin elsewhere."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.nodes import get_node
from taskflow.engine.store import RunRow
from taskflow.nodes.liveness import SERVER_GONE, SILENCE, UNANSWERED


def is_over(tx: Connection, task: Row[Any], run: RunRow, now: float, *, signature_age_s: float) -> bool:
    """Whether nothing of the lost ``run`` can happen any more, wherever its node is.

    Its cleanup has ended. Where the verdict says that no session lives on the node, only a paused worker could still start
    something there, and what it sends is refused ``signature_age_s`` after its turn began, which was before the verdict.
    Where sessions may live (this machine's agent is silent), the server has to be gone first.
    """
    if run.finished_at is None:
        return False
    by = ((task.error or {}).get("detail") or {}).get("by")
    node = get_node(tx, task.node_id) if by in (SILENCE, SERVER_GONE, UNANSWERED) and task.node_id else None
    if node is None or node.destroyed_at is not None:
        return True
    return by != UNANSWERED and now > (task.completed_at or now) + signature_age_s


def rerun_reason(task: Row[Any], number: int) -> str:
    """What the history says of a further run."""
    lost = (task.error or {}).get("message", "its node was lost")
    return f"run again, {number} of {task.node_loss_reruns_max}: {lost}"
