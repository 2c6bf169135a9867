"""What peers that are not of this environment have in common: processes of their own, and what they can't be asked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.subjects import LogReader, Missing, Web
from tests.support.celery_processes import clean_environ
from tests.support.processes import die_with_parent, tail
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Outside(LogReader):
    """Somebody who is told what to do by ``ask``; what only some workloads need is missing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "looks")

    def ask(self, name: str, argument: Any) -> None:
        """Do what the method of this name does; done when it returns."""
        raise NotImplementedError

    def start(self, jobs: Sequence[str]) -> None:
        """See ``Subject``."""
        self.ask("start", list(jobs))

    def alarm(self, due: Mapping[str, float]) -> None:
        """See ``Subject``."""
        self.ask("alarm", dict(due))

    def park(self, jobs: Sequence[str]) -> None:
        """See ``Subject``."""
        self.ask("park", list(jobs))

    def signal(self, job: str) -> None:
        """See ``Subject``."""
        self.ask("signal", job)

    def holds(self) -> int:
        """Not asked."""
        raise Missing("nobody asks this peer how much it holds")

    def footprint(self) -> dict[str, int]:
        """Not asked."""
        raise Missing("nobody weighs this peer")

    def await_callbacks(self, jobs: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """Not asked."""
        raise Missing("this peer has no callbacks")

    def web(self, *, working: bool = False) -> contextlib.AbstractContextManager[Web]:
        """Not asked."""
        raise Missing("this peer takes no tasks over HTTP by itself")


class Piped(Outside):
    """One whose process is told over its standard streams: ``bench.peers.commands``."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        super().__init__(folder)
        self._process, self._log = process, log
        self._answer()

    def ask(self, name: str, argument: Any) -> None:
        """See ``Outside``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, argument]).encode() + b"\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"a peer ended: {tail(self._log)}")


@contextlib.contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """A folder for what a peer writes, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def process(argv: Sequence[str], folder: Path, log: Path, **extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a peer until the block ends, which finds our modules and the log of looks."""
    environ = clean_environ(PYTHONPATH=str(ROOT), BENCH_LOG=str(folder / "looks"), **extra)
    with log.open("ab") as stream:
        child = subprocess.Popen(
            argv, env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
            preexec_fn=die_with_parent(signal.SIGKILL), start_new_session=True,
        )  # fmt: skip
    with child:
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # some have children of their own


def wait_for(what: str, answers: Any, log: Path) -> None:
    """Wait until a peer's server answers."""
    wait_until(answers, f"{what} answers; see {log}", timeout_s=60, poll_s=0.05)
