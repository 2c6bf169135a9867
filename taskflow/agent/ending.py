"""Waiting for the end: for SIGTERM or SIGINT, or for any thread that says so."""

from __future__ import annotations

import os
import select
import signal
import time


class Ending:
    """An event that signals set too. One for a process; made and waited for by the main thread.

    ``threading.Event`` can't do this. Its wait sleeps in a lock, and a signal which the kernel gives to some other
    thread (one that starts a thread or a process at that moment takes it) runs no handler and wakes nobody: 4 of 240
    agents stopped on a busy machine stayed. And a handler that calls ``set`` hangs forever when it interrupts the very
    wait that holds the event's lock. Here every signal, whichever thread gets it, writes a byte that ends the wait.
    """

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def on_signals(self, *numbers: signal.Signals) -> None:
        """Let these signals set it."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        """End every wait, now and later. From any thread and from signal handlers; repeats are fine."""
        self._set = True
        try:
            os.write(self._write, b"x")
        except BlockingIOError:
            pass  # full: it is awake already

    def is_set(self) -> bool:
        """Whether the end was asked for."""
        return self._set

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait up to ``timeout_s`` seconds (None: without limit); whether the end was asked for."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._set:
            left_s = None if end is None else end - time.monotonic()
            if left_s is not None and left_s <= 0:
                break
            if select.select([self._read], [], [], left_s)[0]:
                os.read(self._read, 4096)
        return self._set
