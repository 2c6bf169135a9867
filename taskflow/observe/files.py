"""The counts of each process of a host, in files of its own that outlive it (prometheus_client's multiprocess mode).

A process holds a lock for as long as it lives, on a file that names it; the kernel lets go of it however the process ends.
Who reads folds the files of the dead into one, so that there are as many files as processes and no count ever falls.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import mmap_dict, multiprocess

from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock, is_held

#: The library says no types of it.
_MmapedDict: Any = mmap_dict.MmapedDict
_Collector: Any = multiprocess.MultiProcessCollector

log = structlog.get_logger(__name__)

_ALIVE = ".alive"
#: The identity under which the dead go on being counted.
_FOLDED = "folded"
#: Room for all counts of a process, taken when it begins: a page of a file that finds no room on a full disk is a SIGBUS.
_ROOM = {"counter": 256 * 1024, "histogram": 512 * 1024}
#: How long a reader waits for another one, in seconds.
_WAIT_S = 5.0


class Identity:
    """Names this process in the directory, anew after a fork. ``role``: what kind of process it is."""

    def __init__(self, directory: Path, role: str) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._role = role
        self._name = ""
        self._lock: FileLock | None = None
        os.register_at_fork(after_in_child=self._begin_anew)

    def __call__(self) -> str:
        """The name. Asked at every count. Raises ``OSError`` where its files can't be made."""
        if not self._name:
            self._name = secrets.token_hex(8)
            self._lock = self._announce()
        return self._name

    def _begin_anew(self) -> None:
        self._name = ""
        if self._lock is not None:
            self._lock.release()  # inherited: to close it here leaves it to its parent

    def _announce(self) -> FileLock:
        aside = self._directory / f".{self._name}"
        lock = FileLock(aside)
        lock.acquire()  # under another name: a reader must never see it unlocked while this process lives
        aside.write_text(self._role, encoding="ascii")
        aside.rename(self._directory / f"{self._name}{_ALIVE}")
        for kind, size in _ROOM.items():
            with (self._directory / f"{kind}_{self._name}.db").open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        return lock


def read_all(directory: Path) -> tuple[list[Any], dict[str, int]]:
    """What all processes of the host counted, as metrics of prometheus_client, and how many live by their role.

    Raises ``InfrastructureError`` when another reader does not come to its end.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(directory):
        for kind in _ROOM:
            _settle(directory, kind)
        # Files before names: whoever begins meanwhile is in neither list, and never taken for one of the dead.
        counted = _counts_in(directory)
        roles = _living(directory)
        for kind in _ROOM:
            dead = [path for path in counted if path.name.startswith(f"{kind}_") and _owner(path) not in roles]
            if dead:
                _fold(directory, kind, dead)
        counts: dict[str, int] = defaultdict(int)
        for role in roles.values():
            counts[role] += 1
        return list(_Collector.merge([str(path) for path in directory.glob("*.db") if path.stat().st_size])), counts


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    lock = FileLock(directory / "readers.lock")
    if not lock.acquire(wait_s=_WAIT_S):  # two who fold at once would count the dead twice
        raise InfrastructureError(f"another reader of {directory} takes longer than {_WAIT_S:g} s", code="metrics_busy")
    try:
        yield
    finally:
        lock.release()


def _living(directory: Path) -> dict[str, str]:
    """The processes that live: name -> role. Takes the names of the dead away."""
    found = {}
    for path in directory.glob(f"*{_ALIVE}"):
        if is_held(path):
            found[path.stem] = path.read_text(encoding="ascii")
        else:
            path.unlink(missing_ok=True)
    return found


def _counts_in(directory: Path) -> list[Path]:
    """The files of processes, living or dead, without that of the dead together."""
    return [path for path in directory.glob("*_*.db") if _owner(path) != _FOLDED]


def _fold(directory: Path, kind: str, dead: list[Path]) -> None:
    """Add the counts of the dead to those of the dead before them.

    Each name of a file says how far it came, so that whoever comes after a reader that was killed can end it: no count
    falls, and none is counted twice.
    """
    folded, aside, merged = _places(directory, kind)
    sums: dict[str, float] = defaultdict(float)
    for path in [folded, *dead]:
        for key, value in _values(path):
            sums[key] += value
    written = _MmapedDict(str(aside))
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    written.close()
    begun = merged.with_suffix(".begun")
    begun.write_text("\n".join(path.name for path in dead), encoding="ascii")
    begun.replace(merged)
    aside.replace(folded)
    _settle(directory, kind)


def _settle(directory: Path, kind: str) -> None:
    """End a fold, also one that broke off: once its sum is in its place the files of the dead go, before that the sum."""
    _, aside, merged = _places(directory, kind)
    if merged.exists():
        if not aside.exists():
            for name in merged.read_text(encoding="ascii").splitlines():
                (directory / name).unlink(missing_ok=True)
        merged.unlink()
    aside.unlink(missing_ok=True)


def _places(directory: Path, kind: str) -> tuple[Path, Path, Path]:
    """Where the counts of the dead are, where their next sum is made, and the list of those that are in it."""
    folded = directory / f"{kind}_{_FOLDED}.db"
    return folded, directory / f"{folded.name}.sum", directory / f"{folded.name}.merged"


def _owner(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def _values(path: Path) -> list[tuple[str, float]]:
    if not path.exists() or not path.stat().st_size:
        return []
    try:
        return [(key, value) for key, value, *_ in _MmapedDict.read_all_values_from_file(str(path))]
    except (RuntimeError, ValueError, struct.error) as error:  # its process died while it made the file larger
        log.warning("metrics_file_unreadable", file=path.name, error=repr(error))
        return []
