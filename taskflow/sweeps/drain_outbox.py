"""Drain the outbox: each kind of row has one consumer; a consumer that fails is asked again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog
from sqlalchemy import Row

from taskflow.db.events import open_promises, settle_promise
from taskflow.db.nodes import CAPACITY_RELEASED, candidates, waiting_for_capacity
from taskflow.db.session import Database
from taskflow.db.status import NODE_USABLE
from taskflow.engine.alarms import Ringer

log = structlog.get_logger(__name__)

Consumer = Callable[[Mapping[str, Any]], None]
_RETRY_BASE_S = 5.0
_RETRY_MAX_S = 600.0


def wake_waiters(database: Database, ringer: Ringer, payload: Mapping[str, Any]) -> None:
    """A slot or a node went: ring as many of the owner's waiting runs as there are free slots, best claim first.

    One is rung in any case: where a node is gone there may be room for another one, which is for it to find out.
    """
    owner_id = payload["owner_id"]
    with database.read() as tx:
        nodes = candidates(tx, owner_id)
        free = sum(max(0, node.slots - node.live_workspaces) for node in nodes if node.status in NODE_USABLE)
        waiting = waiting_for_capacity(tx, owner_id, max(1, free))
    ringer.ring(waiting)


def consumers(database: Database, ringer: Ringer) -> dict[str, Consumer]:
    """Who consumes which kind."""
    return {CAPACITY_RELEASED: lambda payload: wake_waiters(database, ringer, payload)}


def drain_outbox(
    database: Database, handlers: Mapping[str, Consumer], now: Callable[[], float], limit: int
) -> dict[str, Any]:
    """Handle what is due, at most ``limit`` rows. A row is done only when its consumer returned: at least once."""
    with database.read() as tx:
        rows = open_promises(tx, now(), limit)
    errors = sum(0 if _handle(database, handlers, row, now) else 1 for row in rows)
    return {"handled": len(rows) - errors, "errors": errors}


def _handle(database: Database, handlers: Mapping[str, Consumer], row: Row[Any], now: Callable[[], float]) -> bool:
    retry_at: float | None = None
    try:
        handlers[row.kind](row.payload)
    except Exception as error:  # one bad row must not strand the others
        log.error("outbox_row_failed", row_id=row.id, kind=row.kind, error=repr(error))
        retry_at = now() + min(_RETRY_MAX_S, _RETRY_BASE_S * 2 ** min(row.attempts, 10))
    database.write(lambda tx: settle_promise(tx, row.id, now=now(), retry_at=retry_at))
    return retry_at is None
