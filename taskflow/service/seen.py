"""Remembers in this process what was noted lately, so that a note that repeats costs nothing."""

from __future__ import annotations

import threading

from taskflow.clock import Clock

#: More keys than this are looked through for old ones.
KEPT = 10_000


class Seen:
    """Says of each key at most once in ``every_s`` seconds that it is due."""

    def __init__(self, clock: Clock, every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._noted)

    def is_due(self, key: str) -> bool:
        """Whether it is, and if so it is noted now."""
        now = self._clock.monotonic()
        with self._lock:
            before = self._noted.get(key)
            if before is not None and now - before < self._every_s:
                return False
            if len(self._noted) >= KEPT:
                self._noted = {one: at for one, at in self._noted.items() if now - at < self._every_s}
            self._noted[key] = now
            return True
