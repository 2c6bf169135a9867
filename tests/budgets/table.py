"""The budget: what each operation costs. A change that needs more says so here, and in docs/explanation/performance.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """On PostgreSQL: ``sql`` statements in ``commits`` writing transactions, waited for ``sql_trips`` times.

    BEGIN and COMMIT are waited for too. ``redis_trips``: to Redis; ``publishes``: of a Celery message.
    """

    what: str
    sql: int
    commits: int
    sql_trips: int
    redis_trips: int
    publishes: int

    def counts(self) -> tuple[int, int, int, int, int]:
        """In the order of the columns."""
        return self.sql, self.commits, self.sql_trips, self.redis_trips, self.publishes


BUDGET = {
    "submit": Budget("submit a task, far below the limits", 1, 1, 1, 1, 1),
    "submit_with_key": Budget("the same with an `Idempotency-Key`: was it used?", 2, 1, 2, 1, 1),
    "first_turn": Budget("begin a turn: take the lease, load the run and its signals", 1, 0, 1, 1, 0),
    "step": Budget("a step in a turn: its row and its event", 1, 1, 1, 0, 0),
    "guarded_step": Budget(
        "the same of a step that buys or starts something: the control state, the lease", 1, 1, 1, 2, 0
    ),
    "snooze": Budget("end a turn with a snooze of seconds", 0, 0, 0, 1, 1),
    "far_snooze": Budget("end a turn with a snooze of hours: only indexed", 0, 0, 0, 1, 0),
    "park": Budget("end a turn with a wait for a signal", 1, 1, 1, 1, 0),
    "signal": Budget("record a signal and ring its run", 2, 1, 4, 1, 1),
    "finish": Budget("end a run", 1, 1, 1, 1, 0),
    "pump": Budget("a look at the alarm index with nothing due, all shards", 0, 0, 0, 1, 0),
}
#: Of a run that waits for a far alarm, at most: in Redis (its hash and its place in the index) and in PostgreSQL (its row).
PARKED_REDIS_BYTES = 600
PARKED_SQL_BYTES = 600


def rendered() -> str:
    """The table as it stands in the documentation."""
    lines = [
        "| | SQL statements | commits | SQL round trips | Redis round trips | Celery messages |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {one.what} | {' | '.join(map(str, one.counts()))} |" for one in BUDGET.values()]
    return "\n".join(lines)
