"""Keeps one process alive: starts it, notices its death, starts it again after a pause that grows."""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from taskflow.clock import Clock, SystemClock
from taskflow.errors import InfrastructureError
from taskflow.logs import get_logger
from taskflow.stack.process import SupervisedProcess, describe_exit

log = get_logger(__name__)

#: How often the length of a log is looked at, in seconds.
LOG_LOOK_S = 5.0

#: ``pausing``: it died and waits for its next start. ``done``: a oneshot that ended well.
State = Literal["new", "starting", "running", "pausing", "stopped", "done"]
#: ``cut_off``: of no process, but of the sessions that end with the stack.
EventKind = Literal["starting", "ready", "done", "died", "not_ready", "crash_loop", "stopping", "stopped", "cut_off"]


@dataclass(frozen=True)
class StackEvent:
    """Something that happened to a process. ``detail`` says why, for people; ``pause_s``: wait before a restart."""

    kind: EventKind
    process: str
    pid: int | None = None
    detail: str = ""
    pause_s: float | None = None


OnEvent = Callable[[StackEvent], None]


@dataclass(frozen=True)
class ProcessStatus:
    """A process as ``status()`` shows it. ``restarts`` counts starts after the first."""

    name: str
    pid: int | None
    restarts: int
    state: State


class Backoff:
    """The pause before a restart: doubling from ``first_s`` to ``longest_s``; a calm time resets it."""

    def __init__(self, *, first_s: float = 0.2, longest_s: float = 5.0, calm_s: float = 30.0) -> None:
        self._first_s, self._longest_s, self._calm_s = first_s, longest_s, calm_s
        self._next_s = first_s
        self._deaths: collections.deque[float] = collections.deque()
        self._told = False

    def died(self, now: float, lived_s: float) -> tuple[float, bool]:
        """The pause in seconds, and whether this death is the one to report: more than 10 within 60 s."""
        if lived_s >= self._calm_s:
            self._next_s = self._first_s
            self._told = False
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        self._deaths.append(now)
        while self._deaths[0] < now - 60.0:
            self._deaths.popleft()
        if len(self._deaths) <= 10:
            return pause_s, False
        tell, self._told = not self._told, True
        return self._longest_s, tell


class Keeper:
    """One process and its restarts. ``tick`` is called several times a second by the thread that owns the process."""

    def __init__(self, process: SupervisedProcess, on_event: OnEvent, clock: Clock | None = None) -> None:
        self.process = process
        self.name = process.spec.name
        self.state: State = "new"
        self.restarts = 0
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._backoff = Backoff()
        self._started_at = 0.0
        self._start_again_at = 0.0
        self._trim_at = 0.0

    def status(self) -> ProcessStatus:
        """Name, pid, restarts, state."""
        return ProcessStatus(self.name, self.process.pid, self.restarts, self.state)

    def start(self) -> None:
        """Start the process. Raises ``InfrastructureError`` when it can't be started at all."""
        self._started_at = self._clock.monotonic()
        self.process.start()
        self.state = "starting"
        self._tell("starting")

    def look(self) -> None:
        """One look at a first start. Raises ``InfrastructureError`` if it ended or took too long."""
        spec, code = self.process.spec, self.process.poll()
        if code is not None:
            if spec.oneshot and code == 0:
                self.state = "done"
                self._tell("done")
                return
            self.state = "stopped"
            raise self.process.failure(f"ended with {describe_exit(code)}")
        if not spec.oneshot and self.process.is_ready():
            self.state = "running"
            self._tell("ready")
        elif self._clock.monotonic() - self._started_at > spec.ready_timeout_s:
            error = self.process.failure(f"is not ready after {spec.ready_timeout_s:g} s")
            self.process.stop()
            self.state = "stopped"
            raise error

    def tick(self) -> None:
        """Look after it: note its death, start it again when its pause is over, note that it is ready."""
        if self.state == "pausing":
            if self._clock.monotonic() >= self._start_again_at:
                self._restart()
        elif self.state in ("starting", "running"):
            code = self.process.poll()
            if code is not None:
                self._pause("died", describe_exit(code))
            elif self.state == "starting":
                self._look_again()
            else:
                self._trim_log()

    def pause(self, detail: str) -> None:
        """Take a failed start as a death: it is tried again."""
        self._pause("not_ready", detail)

    def stopping(self) -> None:
        """From now on its end is wanted: ``tick`` leaves it alone."""
        if self.state in ("starting", "running"):
            self._tell("stopping")
        self.state = "stopped"

    def stopped(self) -> None:
        """Say that it is gone."""
        self._tell("stopped")

    def _restart(self) -> None:
        self.restarts += 1
        try:
            self.start()
        except InfrastructureError as error:
            self._pause("not_ready", error.message)

    def _look_again(self) -> None:
        if self.process.is_ready():
            self.state = "running"
            self._tell("ready")
        elif self._clock.monotonic() - self._started_at > self.process.spec.ready_timeout_s:
            detail = f"not ready after {self.process.spec.ready_timeout_s:g} s"
            self.process.kill()
            self._pause("not_ready", detail)

    def _trim_log(self) -> None:
        if self._clock.monotonic() < self._trim_at:
            return
        self._trim_at = self._clock.monotonic() + LOG_LOOK_S
        try:
            self.process.trim_log()
        except OSError as error:  # a full disk, or somebody took the file away: no reason to end the supervision
            log.warning("log_not_trimmed", process=self.name, error=str(error))

    def _pause(self, kind: EventKind, detail: str) -> None:
        now = self._clock.monotonic()
        pause_s, looping = self._backoff.died(now, now - self._started_at)
        self._start_again_at = now + pause_s
        self.state = "pausing"
        self._tell(kind, detail, pause_s)
        if looping:
            self._tell("crash_loop", f"more than 10 deaths within a minute; see {self.process.log_path}", pause_s)

    def _tell(self, kind: EventKind, detail: str = "", pause_s: float | None = None) -> None:
        self._on_event(StackEvent(kind, self.name, self.process.pid, detail, pause_s))
