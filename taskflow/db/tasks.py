"""Tasks in SQL. ``transition`` is the only writer of ``tasks.status``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, literal, select, update

from taskflow.db.events import append_event, promise
from taskflow.db.models import IdempotencyKey, Run, Task
from taskflow.db.status import STATUSES, TERMINAL, sources
from taskflow.engine.outcomes import Effect, Refused
from taskflow.errors import Conflict, NotFound

TASKS = Task.__table__
#: Outbox kind: a run was lost with its node, and its task may run again.
RERUN_TASK = "rerun_task"
_STATUS_LOCKED = (
    select(Task.status, Task.owner_id, Task.run_id).where(Task.id == bindparam("of_task")).with_for_update()
)
_TRANSITION = update(Task).where(Task.id == bindparam("of_task"), Task.status.in_(bindparam("allowed", expanding=True)))
_TRANSITION_OF_RUN = _TRANSITION.where(Task.run_id == bindparam("of_run"))
_INSERT_TASK = insert(Task).returning(TASKS)
_TASK = select(TASKS).where(Task.owner_id == bindparam("of_owner"), Task.id == bindparam("of_task"))
_TASK_LOCKED = _TASK.with_for_update()
_TASK_OF_RUN = (
    select(TASKS)
    .join(Run, and_(Run.subject_kind == "task", Run.subject_id == Task.id))
    .where(Run.id == bindparam("of_run"))
)
#: What a rerun forgets of the run before: a clean start.
_RESET = (
    "node_id", "placement", "output_branch", "output_commit", "pushed", "changed_files", "exit_code", "error",
    "late_result", "started_at", "completed_at",
)  # fmt: skip


class IllegalTransition(Conflict):
    """The task is not in a status from which it may become that. Nothing was changed."""

    code = "illegal_transition"


def transition(
    tx: Connection,
    task_id: str,
    to: str,
    *,
    actor: str,
    now: float,
    reason: str | None = None,
    from_statuses: Iterable[str] | None = None,
    run_id: str | None = None,
    fields: Mapping[str, Any] | None = None,
    outbox: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> str:
    """Change a task's status: guarded update, event and outbox rows in the caller's transaction. The former status.

    ``from_statuses`` narrows the legal sources; ``run_id``: only while this is the task's current run. Raises
    ``IllegalTransition`` with the present status, ``NotFound`` when there is no such task.
    """
    found = tx.execute(_STATUS_LOCKED, {"of_task": task_id}).first()
    if found is None:
        raise NotFound(f"no task {task_id}")
    allowed = sources(to) if from_statuses is None else sources(to) & frozenset(from_statuses)
    values: dict[str, Any] = {**(fields or {}), "status": to, "updated_at": now}
    if to in TERMINAL:
        values["completed_at"] = now
    elif to == "ready":
        values |= dict.fromkeys(_RESET)
    elif to == "in_progress":
        values["started_at"] = now
    guard = {"of_task": task_id, "allowed": sorted(allowed)}
    if run_id is None:
        changed = tx.execute(_TRANSITION, {**values, **guard})
    else:
        changed = tx.execute(_TRANSITION_OF_RUN, {**values, **guard, "of_run": run_id})
    if changed.rowcount != 1:
        raise IllegalTransition(
            f"task {task_id} is {found.status}; it can't become {to}", detail={"status": found.status}
        )
    append_event(
        tx,
        owner_id=found.owner_id,
        subject_kind="task",
        subject_id=task_id,
        run_id=values.get("run_id", found.run_id),
        kind="status_changed",
        actor=actor,
        at=now,
        data={"from": found.status, "to": to, **({"reason": reason} if reason else {})},
    )
    for kind, payload in outbox:
        promise(tx, kind, payload, now, owner_id=found.owner_id)
    return str(found.status)


def transition_effect(task_id: str, to: str, *, run_id: str, now: float, **kwargs: Any) -> Effect:
    """``transition`` by the runner, as an effect of its apply; an illegal one refuses the whole apply."""

    def effect(tx: Connection) -> None:
        try:
            transition(tx, task_id, to, actor="runner", now=now, run_id=run_id, **kwargs)
        except (IllegalTransition, NotFound) as error:
            raise Refused(error.message) from error

    return effect


def set_fields_effect(task_id: str, *, run_id: str, now: float, **fields: Any) -> Effect:
    """Write fields other than the status, while this is the task's current run."""
    if "status" in fields:
        raise ValueError("status is written by transition() alone")

    def effect(tx: Connection) -> None:
        tx.execute(update(Task).where(Task.id == task_id, Task.run_id == run_id).values(**fields, updated_at=now))

    return effect


def insert_task(tx: Connection, values: Mapping[str, Any], *, actor: str, now: float) -> Row[Any]:
    """A new task, in the status ``values`` says (draft or queued), with its first event; its row."""
    row = tx.execute(_INSERT_TASK, task_values(values, now=now)).one()
    append_event(tx, **first_event(values, actor=actor, now=now))
    return row


def task_values(values: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """All columns of a new task."""
    return {**values, "created_at": now, "updated_at": now}


def first_event(values: Mapping[str, Any], *, actor: str, now: float) -> dict[str, Any]:
    """What the history of a new task begins with: its columns, but for ``seq``."""
    return {
        "owner_id": values["owner_id"],
        "subject_kind": "task",
        "subject_id": values["id"],
        "run_id": values.get("run_id"),
        "kind": "status_changed",
        "actor": actor,
        "at": now,
        "data": {"from": None, "to": values["status"]},
    }


def get_task(tx: Connection, owner_id: str, task_id: str, *, lock: bool = False) -> Row[Any]:
    """A task of this owner. Raises ``NotFound``: another owner's task does not exist for them."""
    row = tx.execute(_TASK_LOCKED if lock else _TASK, {"of_owner": owner_id, "of_task": task_id}).first()
    if row is None:
        raise NotFound(
            f"no task {task_id}", fields={"task_id": "unknown"}, advice="taskflow list shows those that there are"
        )
    return row


def lock_task(tx: Connection, task_id: str) -> Row[Any] | None:
    """A task, held until the transaction ends; None when it was deleted (the engine's own look-up, without an owner)."""
    return tx.execute(select(TASKS).where(Task.id == task_id).with_for_update()).first()


def _open_up_to(limit: str, *where: Any) -> Any:
    unfinished = [status for status in STATUSES if status not in TERMINAL]
    found = select(literal(1)).where(Task.status.in_(unfinished), *where).limit(bindparam(limit)).subquery()
    return select(func.count()).select_from(found).scalar_subquery()


_OPEN_COUNTS = select(
    _open_up_to("mine_max", Task.owner_id == bindparam("of_owner")).label("mine"),
    _open_up_to("all_max").label("all"),
)


def open_counts(tx: Connection, owner_id: str, *, mine_max: int, all_max: int) -> tuple[int, int]:
    """Tasks that have not ended: of this owner and of all owners, each counted no further than its ``max``."""
    found = tx.execute(_OPEN_COUNTS, {"of_owner": owner_id, "mine_max": mine_max, "all_max": all_max}).one()
    return found.mine, found.all


def task_of_run(tx: Connection, run_id: str) -> Row[Any] | None:
    """The task whose run this is or was (the runner's own look-up, by run)."""
    return tx.execute(_TASK_OF_RUN, {"of_run": run_id}).first()


def idempotent_task(tx: Connection, owner_id: str, key: str) -> Row[str, str] | None:
    """What this owner's idempotency key was used for: ``request_hash`` and ``task_id``."""
    return tx.execute(
        select(IdempotencyKey.request_hash, IdempotencyKey.task_id).where(
            IdempotencyKey.owner_id == owner_id, IdempotencyKey.key == key
        )
    ).first()


def remember_idempotency(tx: Connection, owner_id: str, key: str, request_hash: str, task_id: str, now: float) -> None:
    """Bind an idempotency key to the task it made. A concurrent twin fails on the primary key."""
    tx.execute(insert(IdempotencyKey).values(idempotency_values(owner_id, key, request_hash, task_id, now)))


def idempotency_values(owner_id: str, key: str, request_hash: str, task_id: str, now: float) -> dict[str, Any]:
    """The columns of an idempotency key."""
    return {"owner_id": owner_id, "key": key, "request_hash": request_hash, "task_id": task_id, "created_at": now}
