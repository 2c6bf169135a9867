"""A lock on a file that the kernel lets go of when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path


class FileLock:
    """An exclusive ``flock`` on ``path``. Readers may test it with ``is_held`` without disturbing anyone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file. A process that inherits it shares the lock, which then lasts until the last of them ends."""
        if self._descriptor is None:
            raise ValueError(f"{self.path} is not locked by this process")
        return self._descriptor

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, *, wait_s: float = 0.0, shared_wait_s: float = 10.0) -> bool:
        """Take the lock; False when somebody else keeps it.

        ``wait_s``: seconds to wait for another exclusive holder (one that is just ending). ``shared_wait_s``: seconds
        to wait while only testers and lifeline watchers, who hold it shared and briefly, are in the way.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        begin = time.monotonic()
        try:
            while not _try(descriptor, fcntl.LOCK_EX):
                shared_only = _try(descriptor, fcntl.LOCK_SH)
                if shared_only:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                if time.monotonic() - begin >= (max(wait_s, shared_wait_s) if shared_only else wait_s):
                    os.close(descriptor)
                    return False
                time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go. Harmless when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """True while some process holds ``path`` exclusively. Takes the lock shared, and for an instant only."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True
