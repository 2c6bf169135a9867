"""What jobs say of themselves: one line each time they are looked at, appended by whichever process runs them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Look:
    """Somebody looked at ``job``: when (epoch seconds), in which process."""

    job: str
    at: float
    pid: int


def note(path: str | Path, job: str) -> None:
    """Append a line in one write, so that lines of several processes never mix."""
    os.write(_opened(str(path)), f"{job} {time.time():.6f} {os.getpid()}\n".encode())


@cache
def _opened(path: str) -> int:
    return os.open(path, os.O_APPEND | os.O_WRONLY | os.O_CREAT, 0o600)  # until the process ends


def looks(path: str | Path) -> list[Look]:
    """All of them, in the order in which they were written."""
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []
    parts = [line.split() for line in lines]
    return [Look(job, float(at), int(pid)) for job, at, pid in parts]
