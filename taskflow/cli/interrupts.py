"""Ctrl-C and its kin while a task is followed: the first asks for an orderly end, the second for an immediate one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SLICE_S = 0.05

#: ``raising``: a signal interrupts at once. ``following``: the first is only noted, the second interrupts.
#: ``stopping``: every one hastens what is being stopped. A signal that interrupts leads to ``stopping``.
Phase = Literal["raising", "following", "stopping"]


class Detached(KeyboardInterrupt):
    """The second Ctrl-C: leave the task as it is."""


class Interrupts:
    """Handles SIGINT, SIGTERM and SIGHUP between ``__enter__`` and ``__exit__``. Main thread only.

    ``hasten`` is called, in a thread, for a signal in the phase ``stopping``.
    """

    def __init__(self, hasten: Callable[[], None] | None = None) -> None:
        self.phase: Phase = "raising"
        self.count = 0
        self.hasten = hasten
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def sleep(self, seconds: float) -> None:
        """Wait, but not past a signal."""
        seen, end = self.count, time.monotonic() + seconds
        while self.count == seen:
            left_s = end - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, _SLICE_S))

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.phase == "stopping":
            if self.hasten:
                # In a thread: what it locks may be locked by the code that this handler interrupts.
                threading.Thread(target=self.hasten, name="hasten", daemon=True).start()
        elif self.phase == "raising" or self.count > 1:
            phase, self.phase = self.phase, "stopping"  # the way out must not be interrupted again
            raise KeyboardInterrupt if phase == "raising" else Detached
