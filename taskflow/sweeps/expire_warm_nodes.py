"""Backup for the alarm of a warm node: ring those whose time is long over."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from taskflow.db.models import Node
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId


def expire_warm_nodes(
    database: Database, ringer: Ringer, *, now: float, overdue_s: float, limit: int
) -> dict[str, Any]:
    """Ring the runners of warm nodes that should have gone ``overdue_s`` ago; they decide, under their own guards."""
    with database.read() as tx:
        rows = tx.execute(
            select(Node.run_id)
            .where(Node.status == "warm", Node.warm_until < now - overdue_s)
            .order_by(Node.warm_until)
            .limit(limit)
        ).all()
    ringer.ring(RunId(row.run_id) for row in rows)
    return {"rung": len(rows)}
