"""What a sweep remembers between its runs: cursor, state, and when it last succeeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, insert, select, update

from taskflow.db.models import Sweep
from taskflow.db.session import Database

log = structlog.get_logger(__name__)


@dataclass
class Memory:
    """A sweep's own notes; what it leaves in them is there at its next run."""

    cursor: str = ""
    state: dict[str, Any] = field(default_factory=dict)


#: A sweep is given its memory and answers with what it did; an ``errors`` count above 0 marks it degraded.
SweepFunction = Callable[[Memory], dict[str, Any]]


def run_sweep(database: Database, name: str, sweep: SweepFunction, now: Callable[[], float]) -> dict[str, Any]:
    """Run ``sweep`` once and write down how it went. What it raises is counted, logged and raised again (L-20)."""
    memory = _begin(database, name, now())
    try:
        result = sweep(memory)
    except Exception as error:
        log.error("sweep_failed", sweep=name, error=repr(error))
        database.write(lambda tx: _fail(tx, name))
        raise
    finished_at = now()
    database.write(
        lambda tx: tx.execute(
            update(Sweep)
            .where(Sweep.name == name)
            .values(
                cursor=memory.cursor, state=memory.state, last_success_at=finished_at, last_result=result, failures=0
            )
        )
    )
    if result.get("errors"):
        log.warning("sweep_degraded", sweep=name, **result)
    return result


def last_success_at(database: Database, name: str) -> float | None:
    """When a sweep last succeeded."""
    with database.read() as tx:
        return tx.execute(select(Sweep.last_success_at).where(Sweep.name == name)).scalar()


def _begin(database: Database, name: str, at: float) -> Memory:
    def work(tx: Connection) -> Memory:
        row = tx.execute(select(Sweep.cursor, Sweep.state).where(Sweep.name == name)).first()
        if row is None:
            tx.execute(insert(Sweep).values(name=name, cursor="", state={}, last_started_at=at, failures=0))
            return Memory()
        tx.execute(update(Sweep).where(Sweep.name == name).values(last_started_at=at))
        return Memory(row.cursor, dict(row.state or {}))

    return database.write(work)


def _fail(tx: Connection, name: str) -> None:
    tx.execute(update(Sweep).where(Sweep.name == name).values(failures=Sweep.failures + 1))
