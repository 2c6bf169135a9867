"""The line of those who wait for capacity: in which order they are served, and for what each waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row

from taskflow.clock import isoformat
from taskflow.db.session import Database
from taskflow.db.waiting import count_waiting, waiting_page
from taskflow.service.accounts import Caller
from taskflow.service.pages import decode_cursor, encode_cursor, page_size
from taskflow.settings import Settings


class Line:
    """See the module."""

    def __init__(self, database: Database, settings: Settings, now: Callable[[], float]) -> None:
        self._database = database
        self._settings = settings
        self._now = now

    def page(self, caller: Caller, *, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """``{"waiting": [...], "count", "next_cursor"}``: who of the caller's tasks waits, first in line first.

        ``count``: of all of them, those included to whom a place was just given. Raises ``UsageError``.
        """
        after = decode_cursor(cursor, float, str) if cursor else None
        ageing_s = self._settings.priority_ageing_s
        with self._database.read() as tx:
            rows, before = waiting_page(
                tx,
                caller.owner_id,
                limit=page_size(limit),
                ageing_s=ageing_s,
                after=(after[0], after[1]) if after else None,
            )
            count = count_waiting(tx, caller.owner_id)
        page = rows[: page_size(limit) - 1]
        now = self._now()
        return {
            "waiting": [_view(row, before + number, now) for number, row in enumerate(page, 1)],
            "count": count,
            "next_cursor": encode_cursor(page[-1].rank, page[-1].run_id) if len(rows) > len(page) else None,
        }


def _view(row: Row[Any], place: int, now: float) -> dict[str, Any]:
    return {
        "place": place,
        "task_id": row.id,
        "run_id": row.run_id,
        "title": row.title,
        "priority": row.priority,
        "project": row.project,
        "reason": (row.placement or {}).get("reason"),
        "resources": row.resources,
        "requested_node_id": row.requested_node_id,
        "since": isoformat(row.step_entered_at),
        "waited_s": round(max(0.0, now - row.step_entered_at), 1),
        "until": isoformat(row.deadline_at),
    }
