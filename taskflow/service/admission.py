"""Whether one more task or run may be taken. Counted from rows in the transaction that takes it: no counter to leak."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from taskflow.clock import Clock
from taskflow.db import own_runs, tasks
from taskflow.db.nodes import lock_owner
from taskflow.errors import Overloaded, TooMany
from taskflow.settings import ENV_PREFIX, Settings

#: When to ask again: tasks end at a human pace, and everybody who was refused comes back.
RETRY_AFTER_S = 10.0
#: A count is believed for so long while it leaves room for so many: more than all web processes together take meanwhile.
_BELIEVED_S, _ROOM = 1.0, 1000
#: Owners whose counts are remembered.
_OWNERS_MAX = 1000


class OpenCounts(Protocol):
    """How many are open, of this owner and of all owners, each counted no further than its ``max``."""

    def __call__(self, tx: Connection, owner_id: str, *, mine_max: int, all_max: int) -> tuple[int, int]:
        """(of the owner, of everybody)."""


@dataclass(frozen=True)
class Limits:
    """How many of a kind (``what``) may be open, by the settings of these names (0: any number); and what counts them."""

    what: str
    of_owner: str
    of_everybody: str
    count: OpenCounts

    def of(self, settings: Settings) -> tuple[int, int]:
        """The two numbers."""
        return getattr(settings, self.of_owner), getattr(settings, self.of_everybody)


TASKS = Limits("tasks", "owner_open_tasks_max", "open_tasks_max", tasks.open_counts)
RUNS = Limits("runs", "owner_open_runs_max", "open_runs_max", own_runs.open_counts)


@dataclass
class _Count:
    """What was counted last for an owner, and how many were taken since by this process."""

    at: float
    of_owner: int
    of_everybody: int


class Admission:
    """Admits tasks, or runs, up to their ``limits``. One of each kind per process; thread-safe.

    To count thousands of open ones at each submission would make each dearer than the last. Far below the limits a count
    of a moment ago is enough; near them the rows are counted, under a lock of the owner's row.
    """

    def __init__(self, limits: Limits, settings: Settings, clock: Clock) -> None:
        self._limits = limits
        self._settings = settings
        self._clock = clock
        self._counts: dict[str, _Count] = {}
        self._mutex = threading.Lock()

    def admit(self, tx: Connection, owner_id: str) -> None:
        """Raise ``TooMany`` or ``Overloaded`` when the owner, or everybody together, has as many open as allowed.

        An owner's limit is exact. The limit of the installation is exact on SQLite; on PostgreSQL owners who submit in
        the same instant may each pass it by one.
        """
        (mine, all_), limits = self._limits.of(self._settings), self._limits
        if self.has_room(owner_id):
            return
        of_owner, of_everybody = limits.count(tx, owner_id, mine_max=mine, all_max=all_)
        if mine and of_owner + _ROOM >= mine:
            lock_owner(tx, owner_id)  # until the transaction ends
            of_owner, of_everybody = limits.count(tx, owner_id, mine_max=mine, all_max=all_)
        if mine and of_owner >= mine:
            raise TooMany(
                f"{mine} {limits.what} of yours have not ended, and more are not taken",
                code=f"too_many_open_{limits.what}", retry_after_s=RETRY_AFTER_S, detail={"limit": mine},
                advice="wait until some have ended, or cancel some;"
                f" the setting is {ENV_PREFIX}{limits.of_owner.upper()}",
            )  # fmt: skip
        if all_ and of_everybody >= all_:
            raise Overloaded(
                f"this installation takes no more {limits.what} now", code=f"too_many_open_{limits.what}",
                retry_after_s=RETRY_AFTER_S,
                advice=f"ask again later; whoever runs it may raise {ENV_PREFIX}{limits.of_everybody.upper()}",
            )  # fmt: skip
        with self._mutex:
            if len(self._counts) >= _OWNERS_MAX:
                self._counts.clear()
            self._counts[owner_id] = _Count(self._clock.monotonic(), of_owner + 1, of_everybody + 1)

    def has_room(self, owner_id: str) -> bool:
        """Whether what was counted a moment ago leaves no doubt that ``admit`` would admit; then one more is counted in."""
        mine, all_ = self._limits.of(self._settings)
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
