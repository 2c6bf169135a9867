"""Which sweeps have not succeeded for too long, and saying so: what does not happen is noticed by nobody else (L-20)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import select

from taskflow.db.models import Sweep
from taskflow.db.session import Database
from taskflow.sweeps.ledger import Memory, is_degraded

log = structlog.get_logger(__name__)

#: A sweep is late when it did not succeed for three intervals; very frequent ones are given a little more.
_INTERVALS = 3
_LATE_MIN_S = 30.0
#: The sweep that is never without somebody to run it. Since when it knows of a sweep counts where that never succeeded.
WATCHER = "rescue"


@dataclass(frozen=True)
class Standing:
    """How a sweep stands. ``age_s``: since its last success, None: there was none. ``waited_s``: since that, or since
    somebody waits for the first one; None where nobody does yet."""

    name: str
    interval_s: float
    age_s: float | None
    waited_s: float | None
    failures: int
    degraded: bool
    row: Any

    @property
    def late(self) -> bool:
        """Whether it should have succeeded long ago."""
        return self.waited_s is not None and self.waited_s > max(_INTERVALS * self.interval_s, _LATE_MIN_S)


def standings(database: Database, intervals: Mapping[str, float], now: float) -> list[Standing]:
    """Every scheduled job, those that never ran too."""
    with database.read() as tx:
        rows = {row.name: row for row in tx.execute(select(Sweep.__table__))}
    watcher = rows.get(WATCHER)
    known_since: Mapping[str, float] = {} if watcher is None else (watcher.state or {}).get("known_since", {})
    found = []
    for name, interval_s in intervals.items():
        row = rows.get(name)
        age_s = None if row is None or row.last_success_at is None else now - row.last_success_at
        since = known_since.get(name)
        waited_s = age_s if age_s is not None else None if since is None else now - since
        found.append(
            Standing(
                name, interval_s, age_s, waited_s, 0 if row is None else row.failures,
                row is not None and is_degraded(row.last_result), row,
            )
        )  # fmt: skip
    return found


def warn_of_late_sweeps(
    database: Database, intervals: Mapping[str, float], paused: Collection[str], memory: Memory, now: float
) -> list[str]:
    """Log a warning for each sweep that is late, once in each of its intervals whoever notices; their names."""
    known_since = {name: memory.state.get("known_since", {}).get(name, now) for name in intervals}
    said: dict[str, float] = {}
    for one in standings(database, intervals, now):
        # The watcher itself runs now; one that somebody paused is doctor's to remind of.
        if one.late and one.name != WATCHER and one.name not in paused:
            before = memory.state.get("said", {}).get(one.name)
            said[one.name] = now if before is None or now - before >= max(one.interval_s, _LATE_MIN_S) else before
            if said[one.name] == now:
                age_s = None if one.age_s is None else round(one.age_s)
                log.warning(
                    "sweep_late", sweep=one.name, last_success_age_s=age_s, interval_s=one.interval_s,
                    failures=one.failures,
                )  # fmt: skip
    memory.state.update(known_since=known_since, said=said)
    return [name for name, at in said.items() if at == now]
