"""Backup for the alarm of a warm node: ring those whose time is long over."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from taskflow.db.models import Node
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId
from taskflow.sweeps.items import Items


def expire_warm_nodes(items: Items, ringer: Ringer, *, overdue_s: float) -> dict[str, Any]:
    """Ring the runners of warm nodes that should have gone ``overdue_s`` ago; they decide, under their own guards.

    To ring can't fail for one node alone, so none of them ever rests; that a page begins after the last one is enough.
    """
    rows = items.page(
        select(Node.id, Node.run_id).where(
            Node.destroyed_at.is_(None), Node.status == "warm", Node.warm_until < items.now() - overdue_s
        ),
        Node.id,
    )
    ringer.ring(RunId(row.run_id) for row in rows)
    return {"rung": len(rows)}
