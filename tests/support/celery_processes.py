"""Celery workers and beats as children with a process group of their own, ended with the block that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.processes import die_with_parent
from tests.support.waiting import wait_until


class Child:
    """A running ``celery`` command."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(20)


def command(app: str, *arguments: str) -> list[str]:
    """The command line of ``celery -A app arguments``."""
    return [sys.executable, "-m", "celery", "-A", app, *arguments]


def worker_arguments(name: str, queues: str, slots: int = 2) -> tuple[str, ...]:
    """What follows the app in the command line of a worker with ``slots`` processes."""
    return (
        "worker", "-Q", queues, "--concurrency", str(slots), "-n", f"{name}@%h", "--without-gossip", "--without-mingle",
        "--loglevel", "INFO",
    )  # fmt: skip


@contextlib.contextmanager
def celery(
    app: str,
    *arguments: str,
    environ: Mapping[str, str],
    log: Path,
    ready: str = "ready",
    within: Sequence[str] = (),
) -> Iterator[Child]:
    """``celery -A app arguments`` until the block ends; entered when its log says ``ready``.

    ``within``: a command that runs the command after it, in its place.
    """
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*within, *command(app, *arguments)],
            env=dict(environ), stdout=stream, stderr=stream, start_new_session=True,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )  # fmt: skip
    child = Child(process, log)
    try:
        wait_until(
            lambda: ready.encode() in log.read_bytes(), f"celery {arguments[0]} is ready; see {log}", timeout_s=60
        )
        yield child
    finally:
        child.kill()


@contextlib.contextmanager
def worker(
    app: str,
    name: str,
    queues: str,
    *,
    environ: Mapping[str, str],
    log: Path,
    slots: int = 2,
    within: Sequence[str] = (),
) -> Iterator[Child]:
    """A worker with ``slots`` processes; ``within`` as in ``celery``."""
    arguments = worker_arguments(name, queues, slots)
    with celery(app, *arguments, environ=environ, log=log, within=within) as child:
        yield child


def clean_environ(**extra: str) -> dict[str, str]:
    """This environment without settings of ours, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TASKFLOW_", "BENCH_"))}
    return {**kept, **extra}
