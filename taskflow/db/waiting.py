"""Who waits for capacity, in which order, and giving one of them a place.

The order is by rank: the time at which the run was made, minus what its priority is worth. Everybody ages alike, so the
order of two who wait never changes, and however important the others are, nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, not_, or_, select, update

from taskflow.db.models import Run, Task
from taskflow.db.nodes import CAPACITY
from taskflow.db.runs import record_signal
from taskflow.ids import RunId

#: What a page of who waits shows, beside the rank.
_IN_LINE: tuple[Any, ...] = (
    Task.id, Task.run_id, Task.title, Task.priority, Task.project, Task.placement, Task.resources, Task.requested_node_id,
    Run.step_entered_at, Run.deadline_at,
)  # fmt: skip


def first_waiting(
    tx: Connection, owner_id: str, limit: int, *, ageing_s: float, only: str | None = None, but: Sequence[str] = ()
) -> Sequence[Row[Any]]:
    """Tasks of this owner that wait for capacity and were not given a place, best rank first; with each its ``rank``.

    ``only``: those of one project; ``but``: those of these projects are left out.

    A task that somebody is changing at this moment (it is being cancelled) is left out: to wait for it here, with the
    owner's row locked, could be a deadlock.
    """
    rank = _rank(ageing_s)
    projects = [] if only is None else [Task.project == only]
    if but:
        projects.append(Task.project.not_in(but))
    return tx.execute(
        select(Task.__table__, rank.label("rank"))
        .join(Run, and_(Task.run_id == Run.id))
        .where(*_waits(owner_id), Task.node_id.is_(None), Run.cancel_requested_at.is_(None), *projects)
        .order_by(rank, Run.id)
        .limit(limit)
        .with_for_update(of=Task, skip_locked=True)
    ).all()


def count_waiting(tx: Connection, owner_id: str) -> int:
    """How many runs of this owner wait for capacity."""
    return tx.execute(
        select(func.count()).select_from(Run).join(Task, and_(Task.run_id == Run.id)).where(*_waits(owner_id))
    ).scalar_one()


def waiting_page(
    tx: Connection, owner_id: str, *, limit: int, ageing_s: float, after: tuple[float, str] | None = None
) -> tuple[Sequence[Row[Any]], int]:
    """Tasks of this owner that wait and were not given a place, in the order in which they are served, each with its
    ``rank`` and the time since which its run waits; and how many are before them. ``after``: (rank, run id) of the last
    row seen."""
    rank = _rank(ageing_s)
    waiting = (*_waits(owner_id), Task.node_id.is_(None), Run.cancel_requested_at.is_(None))
    statement = (
        select(*_IN_LINE)
        .add_columns(rank.label("rank"))
        .join(Run, and_(Task.run_id == Run.id))
        .where(*waiting)
        .order_by(rank, Run.id)
        .limit(limit)
    )
    if after is None:
        return tx.execute(statement).all(), 0
    last, run_id = after
    passed = or_(rank < last, and_(rank == last, Run.id <= run_id))
    before = select(func.count()).select_from(Run).join(Task, and_(Task.run_id == Run.id)).where(*waiting, passed)
    return tx.execute(statement.where(not_(passed))).all(), tx.execute(before).scalar_one()


def best_ranks(tx: Connection, provider: str, *, ageing_s: float) -> dict[str, float]:
    """Owner -> the best rank of their tasks that wait and could run at this provider."""
    found: dict[str, float] = {}
    for (owner_id, _), rank in ranks_by_project(tx, provider, ageing_s=ageing_s).items():
        found[owner_id] = min(rank, found.get(owner_id, rank))
    return found


def ranks_by_project(tx: Connection, provider: str, *, ageing_s: float) -> dict[tuple[str, str], float]:
    """The same for each (owner, project)."""
    named = Task.resources["provider"].as_string()
    rows = tx.execute(
        select(Task.owner_id, Task.project, func.min(_rank(ageing_s)).label("rank"))
        .join(Run, and_(Task.run_id == Run.id))
        .where(*_waits(None), Task.node_id.is_(None), or_(named.is_(None), named == provider))
        .group_by(Task.owner_id, Task.project)
    )
    return {(row.owner_id, row.project): row.rank for row in rows}


def give_place(tx: Connection, task: Row[Any], node_id: str | None, placement: Mapping[str, Any], now: float) -> RunId:
    """Keep a place on ``node_id`` for a waiting task (None: only tell it to look), as a signal to its run.

    The caller holds the owner's lock, and so is the only one who signals this run for capacity.
    """
    if node_id is not None:
        tx.execute(
            update(Task)
            .where(Task.id == task.id, Task.run_id == task.run_id)
            .values(node_id=node_id, placement=dict(placement), updated_at=now)
        )
    record_signal(tx, task.run_id, CAPACITY, f"{node_id}@{now:.6f}", {"node_id": node_id}, now=now)
    return RunId(task.run_id)


def _rank(ageing_s: float) -> ColumnElement[float]:
    return Run.created_at - Task.priority * ageing_s


def _waits(owner_id: str | None) -> tuple[Any, ...]:
    # By the status, which has an index. One on the step would be written by every step of every run.
    waits = (Task.status == "queued", Run.finished_at.is_(None), Run.step == "waiting_for_capacity")
    return waits if owner_id is None else (Task.owner_id == owner_id, *waits)
