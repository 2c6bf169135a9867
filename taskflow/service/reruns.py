"""When a further run of a task may begin: because a user asks, or because the last one was lost with its node."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.nodes import get_node
from taskflow.db.tasks import IllegalTransition
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


def refuse_rerun(task: Row[Any]) -> None:
    """Raise ``IllegalTransition`` unless a user may run the task again now."""
    if task.status in ("failed", "cancelled"):
        return
    advice = {
        "completed": "submit it anew: taskflow submit",
        "draft": f"it never ran; start it: taskflow run-draft {task.id}",
    }.get(task.status, f"cancel it first: taskflow cancel {task.id}")
    raise IllegalTransition(
        f"task {task.id} is {task.status}; only a task that failed or was cancelled can be run again",
        advice=advice, detail={"status": task.status},
    )  # fmt: skip


def refuse_start(task: Row[Any]) -> None:
    """Raise ``IllegalTransition`` unless a user may start the task as a draft."""
    if task.status in ("draft", "ready"):
        return
    again = f"run it again: taskflow rerun {task.id}" if task.status in ("failed", "cancelled") else None
    raise IllegalTransition(
        f"task {task.id} is {task.status}; only a draft can be started", advice=again, detail={"status": task.status}
    )
