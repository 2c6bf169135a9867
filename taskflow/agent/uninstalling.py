"""Ending everything that runs for an agent's root, and removing the root: nothing of it is asked, all of it is ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import IO

from taskflow.agent.confinement import Confinement
from taskflow.agent.keeping import take_lock
from taskflow.agent.killing import end_all, give_back
from taskflow.agent.marks import AGENT_ROOT
from taskflow.agent.places import Places, read_json, remove_tree
from taskflow.agent.processes import descendants_of, is_alive, kill_processes, processes_with_env, start_ticks

_ROUNDS = 20
_LOCK_LIMIT_S = 2.0


def uninstall(root: Path) -> list[str]:
    """End every process of ``root``, remove ``root``. Returns what is left, in words; empty when nothing is.

    Repeats are fine. Processes of other users are found only by root.
    """
    root = root.resolve()
    confinements = _confinements(root)
    left = _end_all(root) or [pid for confinement in confinements for pid in end_all(confinement)]
    if left:
        return [f"process {pid}" for pid in left]  # its files stay, so that they say what it is
    if not root.is_dir():
        return []
    lock = _lock(root)
    if lock is None:
        return [f"a keeper that was just started for {root}"]
    try:
        for confinement in confinements:
            give_back(confinement)
        remove_tree(root)
    except OSError as error:
        return [f"{root}: {error}"]
    finally:
        lock.close()
    return [f"process {pid}" for pid in _end_all(root)]


def _confinements(root: Path) -> list[Confinement]:
    """How its workspaces are held: what hides from everything else is found by its user, control group or container."""
    found = [read_json(Places(root).confinement(path.name)) for path in root.glob("workspaces/*")]
    return [Confinement.of(said) for said in found if said]


def processes_of(root: Path) -> list[int]:
    """Keeper, agent, shims, sessions, jobs, and what those started: by their mark, their records and their parents.

    This process and those above it are never among them.
    """
    found = set(processes_with_env(AGENT_ROOT, str(root)))
    for record in (root / "keep.json", root / "agent.json", *root.glob("workspaces/*/sessions/*/shim.json")):
        said = read_json(record) or {}
        pid = said.get("pid")
        # The start time keeps a recycled pid from being taken for the process that had it.
        if isinstance(pid, int) and is_alive(pid) and start_ticks(pid) == said.get("start_ticks"):
            found.add(pid)
    for pid in list(found):
        found.update(descendants_of(pid))
    return sorted(found - _own_line())


def _own_line() -> set[int]:
    line, pid = set(), os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        pid = _parent(pid)
    return line


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _end_all(root: Path) -> list[int]:
    """SIGKILL for all of them, until none is found. Returns what could not be ended."""
    for _ in range(_ROUNDS):
        found = _halted(root)
        if not found:
            return []
        kill_processes(found, grace_s=0.0)
    return processes_of(root)


def _halted(root: Path) -> list[int]:
    """The processes, none of which runs on: one that hides by its next fork must be seen before its parent is gone."""
    halted: set[int] = set()
    for _ in range(_ROUNDS):
        found = set(processes_of(root)) | {pid for parent in halted for pid in descendants_of(parent)}
        if found <= halted:
            break
        for pid in found - halted:
            try:
                os.kill(pid, signal.SIGSTOP)
            except (ProcessLookupError, PermissionError):
                pass  # gone, or not ours: what is left says so
        halted |= found
    return sorted(halted)


def _lock(root: Path) -> IO[bytes] | None:
    """The keeper's place, so that none starts while the root is removed; None while another has it."""
    end = time.monotonic() + _LOCK_LIMIT_S
    while (lock := take_lock(root)) is None and time.monotonic() < end:
        time.sleep(0.05)
    return lock
