"""The last backstop: tasks whose limit is long past and whose runner is not alive.

The runner's own deadlines are all shorter. A task is skipped while its runner is alive: control state at the row's
``rev`` and no alarm overdue. Otherwise it is repaired first (control state ensured, alarm rung); it is failed only when
its limit is past *and* a repair one sweep earlier moved nothing. Only the ceiling of 24 hours has no exemption.
It never takes a lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import redis
from sqlalchemy import Row, select

from taskflow.db.apply import apply_change
from taskflow.db.models import Run, Task
from taskflow.db.nodes import get_node
from taskflow.db.runs import to_row
from taskflow.db.session import Database
from taskflow.db.status import ACTIVE
from taskflow.db.tasks import transition_effect
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.outcomes import Refused
from taskflow.engine.store import Change, RunRow, Superseded
from taskflow.errors import PermanentError, StepError
from taskflow.ids import RunId
from taskflow.nodes.liveness import Liveness
from taskflow.settings import Settings
from taskflow.sweeps.items import Items
from taskflow.sweeps.ledger import Memory


class Decision(Enum):
    """What the sweep does with a task, and why."""

    WITHIN_LIMIT = "within_limit"
    RUNNER_ALIVE = "runner_alive"
    WAITS_FOR_CAPACITY = "waits_for_capacity"
    INCONCLUSIVE = "inconclusive"
    REPAIR = "repair"
    FAIL = "fail"
    FAIL_AT_CEILING = "fail_at_ceiling"


@dataclass(frozen=True)
class Facts:
    """What the decision is made from. ``repaired_at_rev``: the ``rev`` at which an earlier sweep repaired it."""

    status: str
    step: str
    rev: int
    now: float
    step_entered_at: float
    started_at: float | None
    runner_alive: bool
    repaired_at_rev: int | None
    liveness: Liveness
    time_limit_s: float


def decide(facts: Facts, settings: Settings) -> Decision:
    """The decision, as a pure function of the facts."""
    age_s = facts.now - facts.step_entered_at
    running_s = 0.0 if facts.started_at is None else facts.now - facts.started_at
    if running_s > settings.execution_ceiling_s + settings.session_grace_s:
        return Decision.FAIL_AT_CEILING
    if facts.runner_alive:
        return Decision.RUNNER_ALIVE
    if facts.repaired_at_rev != facts.rev:
        return Decision.REPAIR
    if facts.step == "waiting_for_capacity":
        past = age_s > settings.admission_wait_s + settings.alarm_overdue_s
        return Decision.FAIL if past else Decision.WAITS_FOR_CAPACITY
    limit_s = {
        "queued": settings.queued_stuck_s,
        "delegated": settings.delegated_stuck_s,
        "in_progress": facts.time_limit_s + 2 * settings.session_grace_s,
    }[facts.status]
    if (running_s if facts.status == "in_progress" else age_s) <= limit_s:
        return Decision.WITHIN_LIMIT
    if facts.status == "in_progress" and facts.liveness is not Liveness.DEAD:
        return Decision.INCONCLUSIVE
    return Decision.FAIL


@dataclass(frozen=True)
class StuckTasks:
    """The sweep. ``liveness`` gives the verdict about a node's row."""

    database: Database
    control: Control
    ringer: Ringer
    settings: Settings
    liveness: Callable[[Row[Any], float], Liveness]
    now: Callable[[], float]

    def __call__(self, memory: Memory) -> dict[str, Any]:
        """One page of active tasks, by cursor with wrap-around."""
        now = self.now()
        items = Items(self.database, memory, self.now, self.settings.sweep_page)
        rows = items.page(
            select(
                Run.__table__, Task.id.label("task_id"), Task.status, Task.started_at, Task.node_id, Task.time_limit_s
            )
            .join(Run, Run.id == Task.run_id)
            .where(Task.status.in_(ACTIVE), Run.finished_at.is_(None)),
            Task.id, column="task_id",
        )  # fmt: skip
        repaired: dict[str, int] = dict(memory.state.get("repaired", {}))
        counts: dict[str, int] = {}

        def treat(row: Row[Any]) -> bool:
            decision = self._treat(row, repaired, now)
            counts[decision.value] = counts.get(decision.value, 0) + 1
            return True

        tally = items.each(((row.task_id, row) for row in rows), treat)
        memory.state["repaired"] = repaired if memory.cursor else self._still_open(repaired)
        return {"looked_at": len(rows), **counts, **tally}

    def _still_open(self, repaired: Mapping[str, int]) -> dict[str, int]:
        """Repairs of runs that are over are forgotten, at the end of each round; those of every other page are kept."""
        with self.database.read() as tx:
            rows = tx.execute(select(Run.id).where(Run.id.in_(list(repaired)), Run.finished_at.is_(None))).all()
        return {row.id: repaired[row.id] for row in rows}

    def _treat(self, row: Row[Any], repaired: dict[str, int], now: float) -> Decision:
        run = to_row(row)
        facts = Facts(
            status=row.status, step=run.step, rev=run.rev, now=now, step_entered_at=run.step_entered_at,
            started_at=row.started_at, runner_alive=self._runner_alive(run), repaired_at_rev=repaired.get(run.id),
            liveness=self._liveness_of(row, now), time_limit_s=row.time_limit_s,
        )  # fmt: skip
        decision = decide(facts, self.settings)
        if decision is Decision.REPAIR:
            self.ringer.publish(self.control.ensure([run]))
            self.ringer.ring([run.id])
            repaired[run.id] = run.rev
        elif decision is Decision.RUNNER_ALIVE:
            repaired.pop(run.id, None)  # it worked: a later death gets a repair of its own
        elif decision in (Decision.FAIL, Decision.FAIL_AT_CEILING):
            self._fail(run, facts, decision)
        return decision

    def _runner_alive(self, run: RunRow) -> bool:
        try:
            found = self.control.describe(run.id)
        except redis.RedisError:
            return False
        state: Mapping[str, str] = found["state"]
        if not state or found["alarm_at"] is None or int(state["rev"]) != run.rev:
            return False
        return bool(found["now"] - found["alarm_at"] <= self.settings.alarm_overdue_s)

    def _liveness_of(self, row: Row[Any], now: float) -> Liveness:
        if row.status != "in_progress" or row.node_id is None:
            return Liveness.DEAD
        with self.database.read() as tx:
            node = get_node(tx, row.node_id)
        if node is None or node.destroyed_at is not None:
            return Liveness.DEAD
        try:
            return self.liveness(node, now)
        except StepError:
            return Liveness.INCONCLUSIVE

    def _fail(self, run: RunRow, facts: Facts, decision: Decision) -> None:
        """Fail the task and send its run to cleanup, in one guarded transaction; whoever moved first wins."""
        error = PermanentError(
            f"stuck at {facts.step} for {facts.now - facts.step_entered_at:.0f} s", code="stuck",
            detail={"decision": decision.value, "step": facts.step},
        ).as_dict()  # fmt: skip
        change = Change(
            step="cleanup", now=facts.now, entered=True, deadline_at=facts.now + self.settings.cleanup_timeout_s,
            error=error, reason=str(error["message"]),
            effects=(
                transition_effect(
                    run.subject_id, "failed", run_id=run.id, now=facts.now, reason=str(error["message"]),
                    fields={"error": error},
                ),
            ),
        )  # fmt: skip
        try:
            row, rings = self.database.write(lambda tx: apply_change(tx, run, change))
        except (Superseded, Refused):
            return  # it moved on meanwhile
        self.ringer.publish(self.control.ensure([row]))
        self.ringer.ring([*rings, RunId(run.id)])
