"""Child processes of a test run: their end, and a death that follows the parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
# Loaded here and not after the fork, where loading a library can hang.
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


class ServerError(Exception):
    """A server of the tests is missing or does not work; the message says which binary and what it said."""


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A ``preexec_fn``: the kernel sends ``death_signal`` to the child when the thread that started it is gone.

    That covers a test process killed with SIGKILL, which runs no fixture teardown.
    """
    parent = os.getpid()

    def arrange() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return arrange


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a server's log, for an error message."""
    if not log.exists():
        return "(no output)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(no output)"


def end_process(process: subprocess.Popen[bytes], first: signal.Signals, *, timeout_s: float = 20.0) -> None:
    """Send ``first`` and wait for the end; SIGKILL when the process takes longer than ``timeout_s``."""
    if process.poll() is not None:
        return
    process.send_signal(first)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout_s)
