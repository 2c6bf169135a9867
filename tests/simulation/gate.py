"""Where every process passes when it touches the outside: other threads may run there, and the process may die there."""

from __future__ import annotations

import time

from tests.simulation.chance import Chance
from tests.simulation.fibers import Crash, Fiber, Process

#: Steps of a run that are kept for the report of a failure.
_TRACE_MAX = 4000


class Gate:
    """Switches between fibers, and the trace of what happened in which order."""

    def __init__(self, chance: Chance, lease_s: float) -> None:
        self.chance = chance
        self.lease_s = lease_s
        self.current: Fiber | None = None
        #: Above 0 while a transaction is open: nothing else can happen then, as one connection serves all.
        self.closed = 0
        self.trace: list[str] = []
        self._start = time.time()

    def say(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        if len(self.trace) < _TRACE_MAX:
            self.trace.append(f"{time.time() - self._start:9.3f} {who:<10} {what}")

    def touch(self, process: Process, place: str) -> None:
        """The process is about to touch the outside, or just did. Raises ``Crash`` when it dies here."""
        if not process.alive:
            raise Crash(place)
        fiber = self.current
        if fiber is None or self.closed:
            return
        if self.chance.fault("worker_crash"):
            self.say(process.name, f"CRASH at {place} ({fiber.label})")
            process.alive = False
            raise Crash(place)
        if self.chance.fault("worker_pause"):
            process.paused_until = time.time() + self.chance.between(0.3, 3.0) * self.lease_s
            self.say(process.name, f"PAUSE at {place} ({fiber.label})")
        Fiber.give_way()
        if not process.alive:
            raise Crash(place)

    def stall(self, process: Process, place: str) -> None:
        """An outside call takes longer than the lease while the renewal thread gets no time."""
        fiber = self.current
        if fiber is None or self.closed or not self.chance.fault("lease_expired"):
            return
        until = time.time() + self.chance.between(1.1, 2.5) * self.lease_s
        process.renewal_stalled_until = fiber.sleeping_until = until
        self.say(process.name, f"LEASE RUNS OUT at {place} ({fiber.label})")
        self.touch(process, place)
