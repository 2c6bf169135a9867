"""Users that exist by their number alone: one for each workspace of an isolated node, and the end of all they left.

A number is never given away twice at once on a machine, also not by two agents: who holds it is written down in a
register of the machine. The range is one that neither distributions nor systemd give to anybody, and that also
exists inside containers, which often know no number above 65535.
"""

from __future__ import annotations

import ctypes
import fcntl
import grp
import pwd
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from taskflow.agent.places import private_directory, remove_tree
from taskflow.agent.processes import is_alive, kill_processes

UIDS = range(60_600, 61_100)
#: Of the machine, not of one agent. A name there is a number, its content is the file that proves that it is held.
REGISTER = Path("/var/lib/taskflow-agent-users")
#: Where everybody may write. What a user leaves there would belong to the next one of its number.
PUBLIC_DIRECTORIES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/dev/mqueue"))  # noqa: S108
_ROUNDS = 100
_KILL_LIMIT_S = 2.0
_IPC_RMID = 0
_SYSTEM_V = {"shm": "shmid", "msg": "msqid", "sem": "semid"}  # the kinds, and how each calls its number
_LIBC = ctypes.CDLL(None, use_errno=True)


class NoUserLeft(Exception):
    """Every number of the range is held by a workspace, a process or an account of the machine."""


def take(proof: Path, write_proof: Callable[[int], None], *, uids: Sequence[int] = UIDS) -> int:
    """A number for whoever holds ``proof``, a file that ``write_proof`` writes and that lasts as long as it is held.

    Register, then proof, then use: a crash between two of them leaves a number that the next one takes over, never one
    with two holders. Raises ``NoUserLeft``, ``OSError``.
    """
    private_directory(REGISTER)
    with (REGISTER / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Not the lowest: a number that was just left is the last one that should be seen again.
        for uid in random.sample(uids, len(uids)):
            if _is_held(uid) or _is_account(uid) or processes_of(uid):
                continue
            remove_leavings(uid)
            (REGISTER / str(uid)).write_text(str(proof), encoding="utf-8")
            write_proof(uid)
            return uid
    raise NoUserLeft(f"none of the {len(uids)} user numbers from {uids[0]} is free")


def _is_held(uid: int) -> bool:
    try:
        return Path((REGISTER / str(uid)).read_text(encoding="utf-8")).exists()
    except FileNotFoundError:
        return False


def _is_account(uid: int) -> bool:
    for look in (pwd.getpwuid, grp.getgrgid):
        try:
            look(uid)
        except KeyError:
            continue
        return True
    return False


def processes_of(uid: int) -> list[int]:
    """Living processes that act, or could act, as the user."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            lines = (entry / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # gone
        numbers = next((line.split()[1:] for line in lines if line.startswith("Uid:")), [])
        if str(uid) in numbers and is_alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def end_processes(uid: int) -> list[int]:
    """SIGKILL for all that run as the user, however they hide. Returns those that could not be ended.

    Raises ``ValueError`` for a number that is no workspace's.
    """
    _must_be_ours(uid)
    left: list[int] = []
    for _ in range(_ROUNDS):
        left = processes_of(uid)
        if not left:
            break
        try:
            # As that user, to everybody it may signal: one call of the kernel, which no fork in the meantime gets
            # away from, as it would from a list of ids.
            subprocess.run(
                ["/bin/sh", "-c", "kill -s KILL -- -1"], user=uid, group=uid, extra_groups=[], env={}, cwd="/",
                check=False, timeout=_KILL_LIMIT_S, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            pass  # they ended or stopped it, or it found no room for a process: then one by one
        time.sleep(0.01)
        kill_processes(processes_of(uid), grace_s=0.0)
    return left


def remove_leavings(uid: int) -> None:
    """Remove what the user left outside its workspace: in public directories, and memory shared by System V's means.

    Its processes must be dead. Raises ``ValueError`` for a number that is no workspace's, ``OSError``.
    """
    _must_be_ours(uid)
    for directory in PUBLIC_DIRECTORIES:
        if not directory.is_dir():
            continue
        for entry in list(directory.iterdir()):
            try:
                if entry.lstat().st_uid != uid:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    remove_tree(entry)
                else:
                    entry.unlink()
            except FileNotFoundError:
                continue  # somebody else's, who removed it just now
    for kind, key in _SYSTEM_V.items():
        for row in _system_v(kind):
            if str(uid) in (row["uid"], row["cuid"]):
                number = int(row[key])
                if kind == "sem":
                    _LIBC.semctl(number, 0, _IPC_RMID, 0)
                else:
                    getattr(_LIBC, f"{kind}ctl")(number, _IPC_RMID, None)


def _system_v(kind: str) -> list[dict[str, str]]:
    try:
        lines = (Path("/proc/sysvipc") / kind).read_text(encoding="ascii").splitlines()
    except OSError:
        return []  # a kernel without it
    return [dict(zip(lines[0].split(), line.split(), strict=False)) for line in lines[1:]]


def _must_be_ours(uid: int) -> None:
    if uid not in UIDS:
        raise ValueError(f"{uid} is not the number of a workspace's user")
