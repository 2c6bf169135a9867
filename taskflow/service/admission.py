"""Whether one more task may be taken. Counted from rows in the transaction that takes it: no counter to leak."""

from __future__ import annotations

from sqlalchemy import Connection

from taskflow.db.nodes import lock_owner
from taskflow.db.tasks import open_counts
from taskflow.errors import Overloaded, TooMany
from taskflow.settings import Settings

#: When to ask again: tasks end at a human pace, and everybody who was refused comes back.
RETRY_AFTER_S = 10.0


def admit_task(tx: Connection, owner_id: str, settings: Settings) -> None:
    """Raise ``TooMany`` or ``Overloaded`` when the owner, or everybody together, has as many open tasks as allowed.

    The owner's row is locked until the transaction ends, so an owner's limit is exact. The limit of the installation
    is exact on SQLite; on PostgreSQL owners who submit in the same instant may each pass it by one.
    """
    mine, all_ = settings.owner_open_tasks_max, settings.open_tasks_max
    if mine:
        lock_owner(tx, owner_id)
    if not (mine or all_):
        return
    of_owner, of_everybody = open_counts(tx, owner_id, mine_max=mine, all_max=all_)
    if mine and of_owner >= mine:
        raise TooMany(
            f"{mine} tasks of yours have not ended, and more are not taken", code="too_many_open_tasks",
            retry_after_s=RETRY_AFTER_S, detail={"limit": mine},
            advice="wait until some have ended, or cancel some; the setting is TASKFLOW_OWNER_OPEN_TASKS_MAX",
        )  # fmt: skip
    if all_ and of_everybody >= all_:
        raise Overloaded(
            "this installation takes no more tasks now", code="too_many_open_tasks", retry_after_s=RETRY_AFTER_S,
            advice="ask again later; whoever runs it may raise TASKFLOW_OPEN_TASKS_MAX",
        )  # fmt: skip
