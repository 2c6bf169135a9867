"""What a sweep remembers between its runs: cursor, state, and when it last succeeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, insert, select, update

from taskflow.db.models import Sweep
from taskflow.db.session import Database

log = structlog.get_logger(__name__)


@dataclass
class Memory:
    """A sweep's own notes; what it leaves in them is there at its next run. ``name``: the sweep's."""

    cursor: str = ""
    state: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def after(self, of: str = "") -> str:
        """Where the last page ended; empty: begin anew. ``of`` tells the pages of one sweep apart."""
        return str(self.state.get("after", {}).get(of, "")) if of else self.cursor

    def go_on(self, of: str, cursor: str) -> None:
        """The next page begins after ``cursor``."""
        if of:
            self.state["after"] = {**self.state.get("after", {}), of: cursor}
        else:
            self.cursor = cursor


#: A sweep is given its memory and answers with what it did. ``failed`` and ``skipped`` above 0 (items that failed now, and
#: that rest because they failed before) mark it degraded; with nothing ``done`` beside them it did not succeed (L-89).
SweepFunction = Callable[[Memory], dict[str, Any]]


def run_sweep(database: Database, name: str, sweep: SweepFunction, now: Callable[[], float]) -> dict[str, Any]:
    """Run ``sweep`` once and write down how it went. What it raises is counted, logged and raised again (L-20); its notes
    are kept then, its cursor stays where it was."""
    memory = _begin(database, name, now())
    try:
        result = sweep(memory)
    except Exception as error:
        log.error("sweep_failed", sweep=name, error=repr(error))
        database.write(lambda tx: _fail(tx, name, memory.state))
        raise
    finished_at = now()
    values: dict[str, Any] = {"cursor": memory.cursor, "state": memory.state, "last_result": result}
    if is_degraded(result) and not result.get("done"):
        values["failures"] = Sweep.failures + 1
    else:
        values |= {"last_success_at": finished_at, "failures": 0}
    database.write(lambda tx: tx.execute(update(Sweep).where(Sweep.name == name).values(**values)))
    if result.get("failed"):
        log.warning("sweep_degraded", sweep=name, **result)
    return result


def is_degraded(result: Mapping[str, Any] | None) -> bool:
    """Whether a sweep left out items that it can't do."""
    return result is not None and bool(result.get("failed") or result.get("skipped"))


def last_success_at(database: Database, name: str) -> float | None:
    """When a sweep last succeeded."""
    with database.read() as tx:
        return tx.execute(select(Sweep.last_success_at).where(Sweep.name == name)).scalar()


def _begin(database: Database, name: str, at: float) -> Memory:
    def work(tx: Connection) -> Memory:
        row = tx.execute(select(Sweep.cursor, Sweep.state).where(Sweep.name == name)).first()
        if row is None:
            tx.execute(insert(Sweep).values(name=name, cursor="", state={}, last_started_at=at, failures=0))
            return Memory(name=name)
        tx.execute(update(Sweep).where(Sweep.name == name).values(last_started_at=at))
        return Memory(row.cursor, dict(row.state or {}), name)

    return database.write(work)


def _fail(tx: Connection, name: str, state: dict[str, Any]) -> None:
    tx.execute(update(Sweep).where(Sweep.name == name).values(failures=Sweep.failures + 1, state=state))
