"""Processes and their threads, played by one real thread: each runs until it touches the outside, then another may."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    from taskflow.bootstrap import App


class Crash(BaseException):
    """The process was killed: nothing of it runs on, not even its error handling."""


class Process:
    """A process of the control plane: dies as a whole, may be paused as a whole, has a clock of its own."""

    def __init__(self, name: str, release: int, skew_s: float) -> None:
        self.name = name
        self.release = release
        self.skew_s = skew_s
        self.alive = True
        self.paused_until = 0.0
        #: Its renewal thread gets no time until then.
        self.renewal_stalled_until = 0.0
        self.renew_at = 0.0
        self.pump_at = 0.0
        self.fibers: list[Fiber] = []
        self.app: App

    def has(self, kind: str) -> bool:
        """Whether a thread of this kind is at work."""
        return any(fiber.kind == kind for fiber in self.fibers)


class Fiber:
    """One thread of a process at work: a turn, a pump tick, a sweep, a request."""

    def __init__(self, process: Process, kind: str, label: str, work: Callable[[], Any]) -> None:
        self.process = process
        self.kind = kind
        self.label = label
        self.sleeping_until = 0.0
        self.result: Any = None
        self.error: Exception | None = None
        self.crashed = False
        #: Told when it is over, however it ended.
        self.answered: Callable[[Fiber], None] | None = None
        self._work = work
        self._greenlet = greenlet.greenlet(self._run)
        process.fibers.append(self)

    @property
    def over(self) -> bool:
        """It ended, one way or another."""
        return self.crashed or bool(self._greenlet.dead)

    def resume(self) -> None:
        """Let it run to the next place where it touches the outside."""
        self._greenlet.switch()

    def kill(self) -> None:
        """Its process died. What unwinds may touch nothing: every port of a dead process raises again."""
        self.crashed = True
        if self._greenlet:  # began and has not ended
            self._greenlet.throw(Crash)

    @staticmethod
    def give_way() -> None:
        """Called inside a fiber: the scheduler chooses who goes on."""
        parent = greenlet.getcurrent().parent
        assert parent is not None, "only a fiber can give way"
        parent.switch()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Crash:
            self.crashed = True
        except Exception as error:
            self.error = error
