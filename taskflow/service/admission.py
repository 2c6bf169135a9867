"""Whether one more task may be taken. Counted from rows in the transaction that takes it: no counter to leak."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sqlalchemy import Connection

from taskflow.clock import Clock
from taskflow.db.nodes import lock_owner
from taskflow.db.tasks import open_counts
from taskflow.errors import Overloaded, TooMany
from taskflow.settings import Settings

#: When to ask again: tasks end at a human pace, and everybody who was refused comes back.
RETRY_AFTER_S = 10.0
#: A count is believed for so long while it leaves room for so many: more than all web processes together take meanwhile.
_BELIEVED_S, _ROOM = 1.0, 1000
#: Owners whose counts are remembered.
_OWNERS_MAX = 1000


@dataclass
class _Count:
    """What was counted last for an owner, and how many tasks were taken since by this process."""

    at: float
    of_owner: int
    of_everybody: int


class Admission:
    """Admits tasks up to the limits of the settings. One per process; thread-safe.

    To count thousands of open tasks at each submission would make each dearer than the last. Far below the limits a count
    of a moment ago is enough; near them the rows are counted, under a lock of the owner's row.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._counts: dict[str, _Count] = {}
        self._mutex = threading.Lock()

    def admit(self, tx: Connection, owner_id: str) -> None:
        """Raise ``TooMany`` or ``Overloaded`` when the owner, or everybody together, has as many open tasks as allowed.

        An owner's limit is exact. The limit of the installation is exact on SQLite; on PostgreSQL owners who submit in
        the same instant may each pass it by one.
        """
        mine, all_ = self._settings.owner_open_tasks_max, self._settings.open_tasks_max
        if self.has_room(owner_id):
            return
        of_owner, of_everybody = open_counts(tx, owner_id, mine_max=mine, all_max=all_)
        if mine and of_owner + _ROOM >= mine:
            lock_owner(tx, owner_id)  # until the transaction ends
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
        with self._mutex:
            if len(self._counts) >= _OWNERS_MAX:
                self._counts.clear()
            self._counts[owner_id] = _Count(self._clock.monotonic(), of_owner + 1, of_everybody + 1)

    def has_room(self, owner_id: str) -> bool:
        """Whether what was counted a moment ago leaves no doubt that ``admit`` would admit; then the task is counted in."""
        mine, all_ = self._settings.owner_open_tasks_max, self._settings.open_tasks_max
        if not (mine or all_):
            return True
        with self._mutex:
            count = self._counts.get(owner_id)
            if count is None or self._clock.monotonic() - count.at > _BELIEVED_S:
                return False
            taken = _ROOM + 1
            if (mine and count.of_owner + taken >= mine) or (all_ and count.of_everybody + taken >= all_):
                return False
            count.of_owner += 1
            count.of_everybody += 1
            return True
