"""The control plane's clock, as far as the agent knows it: signatures go by it, so this machine's own may be wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: An HTTP date has whole seconds and may be a proxy's: a smaller difference says nothing.
_COARSE_S = 2.0


def boot_time() -> float:
    """Seconds since this machine was started, its sleep included: nobody can set this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PlaneClock:
    """The control plane's time now. Thread-safe; this machine's time until the control plane said another."""

    def __init__(self, host: Callable[[], float] = time.time, ticks: Callable[[], float] = boot_time) -> None:
        self._host = host
        self._ticks = ticks
        self._lock = threading.Lock()
        self._said: tuple[float, float] | None = None  # the control plane's time, and our ticks then
        self._exact = False

    def now(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            return self._now()

    def learn(self, said: float) -> None:
        """The control plane said that it is ``said`` (seconds since the epoch) now."""
        with self._lock:
            self._said, self._exact = (said, self._ticks()), True

    def learn_date(self, said: float, *, doubted: bool = False) -> None:
        """An answer was dated ``said``, in whole seconds.

        Not taken when the control plane said its exact time before, unless our time is ``doubted``: an answer may have
        been dated by something on the way.
        """
        with self._lock:
            if (doubted or not self._exact) and abs(said - self._now()) > _COARSE_S:
                self._said, self._exact = (said, self._ticks()), False

    def _now(self) -> float:
        if self._said is None:
            return self._host()
        said, then = self._said
        return said + self._ticks() - then
