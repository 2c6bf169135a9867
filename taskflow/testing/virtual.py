"""Virtual time: a clock and a broker that follow it, and the death of a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import time_machine

from taskflow.engine.control import Alarm


class Crash(BaseException):
    """A worker dies here: nothing of it runs on, not even its error handling."""


class FollowingClock:
    """The app's clock on the virtual time that Redis follows too."""

    def __init__(self, travel: time_machine.Traveller) -> None:
        self._travel = travel

    def now(self) -> float:
        """Virtual epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """The same: virtual time never goes back."""
        return time.time()

    def sleep(self, seconds: float) -> None:  # part of the Clock port
        """Move time instead of waiting."""
        self._travel.shift(seconds)


class Broker:
    """Alarms that were published, each waiting out its countdown."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, Alarm]] = []
        self.published = 0

    def publish(self, alarm: Alarm) -> None:
        """Queue it."""
        self.published += 1
        self.waiting.append((time.time() + alarm.countdown_s, self.published, alarm))

    def backlog(self) -> int:
        """Nothing is held back here."""
        return 0

    def take_due(self) -> Alarm | None:
        """The next alarm whose time has come."""
        due = min((one for one in self.waiting if one[0] <= time.time()), default=None, key=lambda one: one[:2])
        if due is None:
            return None
        self.waiting.remove(due)
        return due[2]


@dataclass
class Planner:
    """Things that will happen at a virtual time, in order."""

    clock: Callable[[], float]
    waiting: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    made: int = 0

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Let ``action`` happen in ``delay_s``."""
        self.made += 1
        self.waiting.append((self.clock() + delay_s, self.made, action))

    def next_at(self) -> float | None:
        """When the next thing happens."""
        return min((at for at, _, _ in self.waiting), default=None)

    def run_due(self) -> int:
        """Let everything that is due happen; how much that was."""
        due = sorted(one for one in self.waiting if one[0] <= self.clock())
        self.waiting = [one for one in self.waiting if one[0] > self.clock()]
        for _, _, action in due:
            action()
        return len(due)
