"""The lifeline: a file its supervisor keeps locked. Whoever gets the lock knows that the supervisor is gone.

The kernel lets go of the lock when its holder ends, however it ends, so no message can be missed.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path


def watch(path: Path, gone: Callable[[], None]) -> threading.Thread:
    """Call ``gone`` in a thread of its own once nobody holds the lock. Raises ``OSError`` if there is no such file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def wait() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # Let go at once: the next supervisor wants the lock for itself.
        os.close(descriptor)
        gone()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread
