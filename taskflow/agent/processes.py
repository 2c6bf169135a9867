"""Linux processes: ties of life between them, finding them, ending them. No dependency, usable from anywhere.

A process group is not enough to find what a command left behind: ``setsid`` and a double fork leave it. Two things do
follow a process everywhere: its children (re-parented to the nearest subreaper) and its initial environment.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PROC = Path("/proc")
# Loaded at import: a preexec_fn runs between fork and exec, where loading a library could deadlock.
_LIBC = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl: {os.strerror(errno)}")


def set_parent_death_signal(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to send ``sig`` to this process when the thread that started it ends; usable as ``preexec_fn``.

    The kernel watches the *thread*, so the starter must be one that lives as long as its process (the main thread).
    Survives exec, not fork; a setuid program and a change of the user clear it. Raises ``OSError`` where the kernel has
    no prctl.
    """
    _prctl(_PR_SET_PDEATHSIG, int(sig))


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init, so that they can be found and reaped."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """From here on no program gives this process, or a child of it, more rights than it has: setuid does nothing."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in brackets may itself hold spaces and brackets: everything after the last one is plain fields.
    return text.rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """True when ``pid`` exists and is not a zombie."""
    fields = _stat_fields(pid)
    return bool(fields) and fields is not None and fields[0] not in ("Z", "X")


def start_ticks(pid: int) -> int | None:
    """When ``pid`` started, in clock ticks since boot; None if it is gone. Pid and start name one process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def children_of(pid: int) -> list[int]:
    """Living direct children of ``pid``."""
    found = []
    for candidate in _all_pids():
        fields = _stat_fields(candidate)
        if fields and int(fields[1]) == pid and fields[0] not in ("Z", "X"):
            found.append(candidate)
    return found


def descendants_of(pid: int) -> list[int]:
    """Living descendants of ``pid``, parents before their children; ``pid`` itself is not in it."""
    by_parent: dict[int, list[int]] = {}
    for candidate in _all_pids():
        fields = _stat_fields(candidate)
        if fields and fields[0] not in ("Z", "X"):
            by_parent.setdefault(int(fields[1]), []).append(candidate)
    found: list[int] = []
    front = [pid]
    while front:
        front = [child for parent in front for child in by_parent.get(parent, []) if child not in found]
        found.extend(front)
    return found


def processes_with_env(name: str, value: str) -> list[int]:
    """Living processes whose initial environment holds ``name=value``; this process is never among them.

    Processes of other users can't be read and are not found.
    """
    wanted = os.fsencode(f"{name}={value}")
    found = []
    for pid in _all_pids():
        if pid == os.getpid():
            continue
        try:
            environ = (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            continue  # gone, or not ours
        if wanted in environ.split(b"\0") and is_alive(pid):
            found.append(pid)
    return found


def _signal(pid: int, sig: int) -> None:
    try:
        os.kill(pid, sig)
    except (ProcessLookupError, PermissionError):
        pass  # gone already, or a pid that came to belong to someone else


def kill_processes(pids: Iterable[int], *, grace_s: float = 5.0) -> list[int]:
    """End ``pids``: SIGTERM, up to ``grace_s`` seconds, then SIGKILL (at once when ``grace_s`` is 0).

    Never touches this process or init. Returns those still alive a moment after SIGKILL (stuck in the kernel).
    """
    living = {pid: start_ticks(pid) for pid in pids if pid not in (0, 1, os.getpid())}

    def remaining() -> list[int]:
        # The start time keeps a recycled pid from being taken for the process that had it.
        return [pid for pid, ticks in living.items() if is_alive(pid) and start_ticks(pid) == ticks]

    if grace_s > 0:
        for pid in remaining():
            _signal(pid, signal.SIGTERM)
        _wait_gone(remaining, grace_s)
    for pid in remaining():
        _signal(pid, signal.SIGKILL)
    _wait_gone(remaining, 2.0)
    return remaining()


def _wait_gone(remaining: Callable[[], list[int]], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while remaining() and time.monotonic() < end:
        time.sleep(0.02)


def kill_tree(pid: int, *, grace_s: float = 5.0) -> list[int]:
    """End ``pid`` and all its descendants. Returns those that could not be ended.

    Looks again until nothing new appears, so that a process which forks while it is being ended does not get away.
    """
    kill_processes([pid, *descendants_of(pid)], grace_s=grace_s)
    return kill_descendants(pid)


def kill_descendants(pid: int, *, grace_s: float = 0.0, rounds: int = 50) -> list[int]:
    """End every descendant of ``pid`` but not ``pid``. Returns those that could not be ended."""
    stuck: list[int] = []
    for _ in range(rounds):
        left = [found for found in descendants_of(pid) if found not in stuck]
        if not left:
            break
        stuck += kill_processes(left, grace_s=grace_s)
        grace_s = 0.0
    return stuck
