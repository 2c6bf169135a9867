"""A disk that is full for chosen processes: the kernel's limit on the size of files, lowered and lifted while they run.

It refuses every write to a regular file (EFBIG where a full disk says ENOSPC), needs no mount and no rights beyond
those over one's own processes, and a child inherits it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from types import TracebackType

import psutil

_NOTHING = 1


class FullDisk:
    """``fill`` and ``make_room``, for processes by their id."""

    def __init__(self) -> None:
        self._full: set[int] = set()

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.make_room()

    def fill(self, pids: Iterable[int]) -> None:
        """From now on these processes can write to no file."""
        for pid in pids:
            _limit(pid, _NOTHING)
            self._full.add(pid)

    def make_room(self) -> None:
        """Lift it, for them and for the children they have made since."""
        for pid in self._full:
            _limit(pid, resource.RLIM_INFINITY)
            try:
                children = psutil.Process(pid).children(recursive=True)
            except psutil.NoSuchProcess:
                continue
            for child in children:
                _limit(child.pid, resource.RLIM_INFINITY)
        self._full.clear()


def _limit(pid: int, size: int) -> None:
    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
    except ProcessLookupError:
        pass  # it has ended meanwhile
