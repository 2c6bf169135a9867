"""Who is measured: each as something that starts tasks, sets alarms and takes signals, and says when it looked at a job."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.seen import Look
from tests.support.waiting import wait_until


class Missing(Exception):
    """This peer can't be installed or started here; the text says why."""


class Looking(Protocol):
    """Somebody who says when it looked at a job."""

    def looks(self) -> list[Look]:
        """The looks since this was asked last."""


class Subject(Looking, Protocol):
    """Somebody who is ready to work. What a call was given is accepted durably, as far as they do that, when it returns."""

    def start(self, jobs: Sequence[str]) -> None:
        """A task of ``STEPS`` empty steps for each job, started one after the other; each step is a look at the job."""

    def alarm(self, due: Mapping[str, float]) -> None:
        """Look at each job once, at its time (epoch seconds)."""

    def park(self, jobs: Sequence[str]) -> None:
        """A task for each job that waits for a signal; they wait when this returns."""

    def signal(self, job: str) -> None:
        """Wake a parked job; its next step is a look."""

    def holds(self) -> int:
        """How many alarms it holds that are due later than in a minute."""

    def footprint(self) -> dict[str, int]:
        """Bytes it takes up now: ``redis``, ``sql`` and ``worker`` (resident memory of its worker's processes)."""

    def await_callbacks(self, jobs: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """A task for each job that waits for its workspace to report: job -> path and token of the report's route."""

    def web(self, *, working: bool = False) -> AbstractContextManager[Web]:
        """Its HTTP server, until the block ends; meanwhile no work is done unless ``working``."""


@dataclass(frozen=True)
class Web:
    """An HTTP server that takes tasks: where, and what a request must carry."""

    host: str
    port: int
    headers: Mapping[str, str]


class LogReader:
    """``looks`` of a subject whose processes append to a file (``tests.support.seen.note``)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def looks(self) -> list[Look]:
        """The looks since this was asked last."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            text = stream.read()
        text = text[: text.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(text)
        return [Look(job, float(at), int(pid)) for job, at, pid in map(str.split, text.decode().splitlines())]


def wait_looks(subject: Looking, number: int, *, poll_s: float = 0.01, timeout_s: float = 300.0) -> list[Look]:
    """The next ``number`` looks, waited for."""
    found: list[Look] = []

    def enough() -> bool:
        found.extend(subject.looks())
        return len(found) >= number

    wait_until(enough, f"{number} looks", timeout_s=timeout_s, poll_s=poll_s)
    return found


#: Ours, in the order of the report. ``taskflow`` is on PostgreSQL.
OURS = ("taskflow", "taskflow_sqlite")
#: The same with turns of one step each: every step is a message, a lease and a commit of its own.
OURS_BY_STEP = ("taskflow_by_step", "taskflow_sqlite_by_step")
#: peer -> workloads it can be asked for.
PEERS: dict[str, frozenset[str]] = {
    "celery": frozenset({"chain", "alarms", "burst", "signals", "mixed", "parked", "recovery"}),
    "dbos": frozenset({"chain", "alarms", "burst", "signals", "mixed"}),
    "workerd": frozenset({"chain", "alarms", "burst", "signals", "mixed"}),
    "restate": frozenset({"chain", "alarms", "burst", "signals", "mixed"}),
    "procrastinate": frozenset({"chain", "alarms", "burst", "signals", "mixed"}),
}

Ready = Callable[[], AbstractContextManager[Subject]]


def ready(name: str) -> Ready:
    """How to get a subject: enter what this returns. Raises ``Missing`` (then, or when entered)."""
    module = importlib.import_module(f"bench.subjects.{'ours' if name in OURS + OURS_BY_STEP else name}")
    found: Ready = getattr(module, name)
    return found


def versions_of(name: str) -> dict[str, str]:
    """What of a subject was measured: package -> version."""
    module = importlib.import_module(f"bench.subjects.{'ours' if name in OURS + OURS_BY_STEP else name}")
    found: dict[str, str] = module.versions()
    return found
