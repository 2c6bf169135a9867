"""Processes that a stack or a node left behind, found by what only they have: their environment and their places."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from taskflow.agent.processes import descendants_of, kill_processes, processes_with_env
from taskflow.file_lock import is_held
from taskflow.stack.environment import DATA_DIR, LIFELINE, WORKSPACE_ID

Find = Callable[[], list[int]]


def of_stack(data_root: Path, lifeline: Path) -> list[int]:
    """Processes of the stack on ``data_root``: tied to its lifeline, or a session's. Never the user's own shell."""
    ours = processes_with_env(DATA_DIR, str(data_root))
    tied = set(processes_with_env(LIFELINE, str(lifeline)))
    return [pid for pid in ours if pid in tied or WORKSPACE_ID in _environ(pid)]


def running_sessions(data_root: Path) -> int:
    """How many commands of tasks run on the local nodes: each is kept by a shim, which holds its lock."""
    return sum(map(is_held, data_root.glob("nodes/*/workspaces/*/sessions/*/shim.lock")))


def of_node(data_root: Path, node_dir: Path) -> list[int]:
    """Processes of one local node: agent, shims, sessions, and what those started."""
    workspaces = node_dir / "workspaces"
    ids = {entry.name for entry in workspaces.iterdir()} if workspaces.is_dir() else set()
    place = str(node_dir)
    found: set[int] = set()
    for pid in processes_with_env(DATA_DIR, str(data_root)):
        environ = _environ(pid)
        # Only what our agents started carries one of these two; a user's `tail -f` of the log has neither.
        if environ.get(WORKSPACE_ID) in ids or (LIFELINE in environ and _points_into(pid, place)):
            found.update((pid, *descendants_of(pid)))
    found.discard(os.getpid())
    return sorted(found)


def kill_all(find: Find, *, rounds: int = 20) -> list[int]:
    """SIGKILL for what ``find`` finds, until it finds nothing. Returns what could not be ended.

    Looks again, because something that is just forking slips through one look.
    """
    left = find()
    while left and rounds > 0:
        kill_processes(left, grace_s=0.0)
        left = find()
        rounds -= 1
    return left


def _environ(pid: int) -> dict[str, str]:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


def _points_into(pid: int, place: str) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        cwd = str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return False
    return any(text == place or text.startswith(place + "/") for text in (cwd, *map(os.fsdecode, arguments)))
