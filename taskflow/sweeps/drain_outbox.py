"""Drain the outbox: each kind of row has one consumer; a consumer that fails is asked again later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, Row

from taskflow.db.events import count_resting_promises, failing_promises, open_promises, settle_promise
from taskflow.db.providers import CHECK_PROVIDER, PROVIDER_CHANGED
from taskflow.db.session import Database
from taskflow.db.tasks import RERUN_TASK
from taskflow.db.usage import LIMITS_CHANGED
from taskflow.db.waiting import best_ranks
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId
from taskflow.nodes.admission import allocate_effect
from taskflow.nodes.context import StepTools
from taskflow.sweeps.items import stored_error

log = structlog.get_logger(__name__)

Consumer = Callable[[Mapping[str, Any]], None]
#: Runs a task again whose run was lost with its node: (task id, run id) -> False while it is too early for that.
Rerun = Callable[[str, str], bool]
#: Asks a provider whether its credential works: its name -> False while another worker is at it.
Check = Callable[[str], bool]
_RETRY_BASE_S = 5.0
_RETRY_MAX_S = 600.0
_POSTPONED_S = 1.0
#: Of a row that failed before its error was kept.
UNKNOWN: Mapping[str, Any] = {"code": "unknown", "message": "the next try says why"}


class Postponed(Exception):
    """Raised by a consumer when it is too early for a row: it is kept for the next drain, and is no error."""


def sell_again(tools: StepTools, ringer: Ringer, now: Callable[[], float], payload: Mapping[str, Any]) -> None:
    """A provider sells again: it is the turn of the first in line, owner by owner, in the order of their claims."""
    with tools.database.read() as tx:
        ranks = best_ranks(tx, payload["provider"], ageing_s=tools.settings.priority_ageing_s)
    for owner_id in sorted(ranks, key=lambda owner: (ranks[owner], owner)):
        ringer.ring(tools.database.write(partial(_allocated, tools, owner_id, now())))


def look_again(tools: StepTools, ringer: Ringer, now: Callable[[], float], payload: Mapping[str, Any]) -> None:
    """The limits of an owner were changed: perhaps there is room for those of theirs who wait."""
    ringer.ring(tools.database.write(partial(_allocated, tools, payload["owner_id"], now())))


def rerun_task(rerun: Rerun, payload: Mapping[str, Any]) -> None:
    """A run was lost with its node, and its user allowed a further one: ``rerun`` makes one however often it is asked."""
    if not rerun(payload["task_id"], payload["run_id"]):
        raise Postponed


def check_provider(check: Check, payload: Mapping[str, Any]) -> None:
    """Somebody asked for a check over the API, whose process has no credentials."""
    if not check(payload["provider"]):
        raise Postponed


def _allocated(tools: StepTools, owner_id: str, now: float, tx: Connection) -> list[RunId]:
    return list(allocate_effect(tools, owner_id, now)(tx) or ())


def consumers(
    tools: StepTools, ringer: Ringer, now: Callable[[], float], rerun: Rerun, check: Check
) -> dict[str, Consumer]:
    """Who consumes which kind."""
    return {
        PROVIDER_CHANGED: partial(sell_again, tools, ringer, now),
        LIMITS_CHANGED: partial(look_again, tools, ringer, now),
        RERUN_TASK: partial(rerun_task, rerun),
        CHECK_PROVIDER: partial(check_provider, check),
    }


def drain_outbox(
    database: Database, handlers: Mapping[str, Consumer], now: Callable[[], float], limit: int
) -> dict[str, Any]:
    """Handle what is due, at most ``limit`` rows. A row is done only when its consumer returned: at least once."""
    with database.read() as tx:
        rows = open_promises(tx, now(), limit)
    failed = sum(0 if _handle(database, handlers, row, now) else 1 for row in rows)
    with database.read() as tx:
        resting = count_resting_promises(tx, now())
    return {"done": len(rows) - failed, "failed": failed, "skipped": resting - failed}


def failing_rows(database: Database, limit: int = 20) -> list[dict[str, Any]]:
    """What the outbox fails at, of all owners, as ``failing_items`` says it: ``{"item", "failures", "error"}`` each."""
    with database.read() as tx:
        rows = failing_promises(tx, limit)
    return [{"item": promise_name(row), "failures": row.attempts, "error": row.error or UNKNOWN} for row in rows]


def promise_name(row: Row[Any]) -> str:
    """What an outbox row is called: its kind, and what it is about."""
    about = next((row.payload[key] for key in ("task_id", "provider", "owner_id") if key in row.payload), row.id)
    return f"{row.kind} {about}"


def _handle(database: Database, handlers: Mapping[str, Consumer], row: Row[Any], now: Callable[[], float]) -> bool:
    retry_at, said = None, None
    try:
        handlers[row.kind](row.payload)
    except Postponed:
        database.write(lambda tx: settle_promise(tx, row.id, now=now(), retry_at=now() + _POSTPONED_S, tried=False))
        return True
    except Exception as error:  # one bad row must not strand the others
        said = stored_error(error)
        log.error("outbox_row_failed", row_id=row.id, kind=row.kind, code=said["code"], error=said["message"])
        retry_at = now() + min(_RETRY_MAX_S, _RETRY_BASE_S * 2 ** min(row.attempts, 10))
    database.write(lambda tx: settle_promise(tx, row.id, now=now(), retry_at=retry_at, error=said))
    return retry_at is None
