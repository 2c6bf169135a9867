"""Control groups (version 2): a limit of memory, processes and processor time for all of a workspace together."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

MOUNT = Path("/sys/fs/cgroup")
_NEEDED = ("memory", "pids")
_WANTED = (*_NEEDED, "cpu")
_WEIGHT_OF_ONE_CORE = 100  # what a group has by default
_WEIGHT_MAX = 10_000
_END_LIMIT_S = 5.0


class Cgroups:
    """The groups below ``<mount>/taskflow``."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent

    @classmethod
    def find(cls, mount: Path = MOUNT) -> Cgroups | None:
        """Where groups with limits can be made; None where the kernel, a container or missing rights don't allow it."""
        parent = mount / "taskflow"
        try:
            there = (mount / "cgroup.controllers").read_text(encoding="ascii").split()
            if not set(_NEEDED) <= set(there):
                return None
            order = " ".join(f"+{name}" for name in _WANTED if name in there)
            _write(mount / "cgroup.subtree_control", order)
            parent.mkdir(exist_ok=True)
            _write(parent / "cgroup.subtree_control", order)
        except OSError as error:
            log.debug("no control groups: %s", error)
            return None
        return cls(parent)

    def make(self, name: str, *, vcpus: float, memory_mb: int, processes: int) -> Path:
        """The group of that name with these limits; 0 is no limit. Raises ``OSError``.

        Memory is a wall. Processor time is a share that counts only while others want it: idle cores help everybody.
        """
        group = self._parent / name
        group.mkdir(exist_ok=True)
        _write(group / "pids.max", str(processes))
        _write(group / "memory.max", str(memory_mb * 2**20) if memory_mb else "max")
        if memory_mb and (group / "memory.swap.max").exists():
            _write(group / "memory.swap.max", "0")  # else the wall only moves the load to the disk that all share
        if vcpus and (group / "cpu.weight").exists():
            _write(group / "cpu.weight", str(max(1, min(_WEIGHT_MAX, round(vcpus * _WEIGHT_OF_ONE_CORE)))))
        return group


def end(group: Path) -> None:
    """End all in a group, and the group. Missing is fine; one that does not empty is left and said."""
    until = time.monotonic() + _END_LIMIT_S
    while group.exists():
        kill_all(group)
        try:
            group.rmdir()
        except OSError as error:
            if time.monotonic() > until:
                log.error("control group %s stays: %s", group, error)
                return
            time.sleep(0.02)


def kill_all(group: Path) -> None:
    """SIGKILL for all in a group, at once. Kernels before 5.14 can't; whoever calls it ends them one by one as well."""
    try:
        _write(group / "cgroup.kill", "1")
    except OSError:
        pass


def _write(path: Path, text: str) -> None:
    # Never create: in anything but a real group's directory a missing file is an error, not a file to be made.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
