"""Where a case of a workload takes place: a broker, workers and a log of looks, all of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.hosts import Host
from bench.peers import ours
from taskflow.bootstrap import App, bootstrap
from taskflow.db.migrate import upgrade
from taskflow.settings import Settings
from taskflow.stack.keeper import Keeper
from taskflow.stack.process import ProcessSpec, SupervisedProcess
from tests.support import plain_celery
from tests.support.celery_processes import Child, clean_environ, command, worker, worker_arguments
from tests.support.seen import Look, looks
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

#: How long something is watched before it counts as not coming, in seconds.
WATCHED_S = 120.0
PLAIN = ("tests.support.plain_celery", "celery")
OURS = ("bench.peers.ours", "alarm,sweep")


def watch(seen: Callable[[], float | None]) -> float | None:
    """Ask ``seen`` until it answers a number; None when it did not while it was watched."""
    end = time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        value = seen()
        if value is not None:
            return value
        time.sleep(0.02)  # real processes are watched
    return None


@dataclass
class Place:
    """A broker, a log of looks and an environment for workers."""

    server: ValkeyServer
    folder: Path
    environ: dict[str, str]

    def looks(self, job: str = "") -> list[Look]:
        """Looks at ``job``, or at all whose name begins so."""
        return [look for look in looks(self.folder / "looks") if look.job.startswith(job)]

    def first(self, job: str) -> Look:
        """Wait for the first look at ``job``."""
        found = wait_until(lambda: self.looks(job), f"{job} begins", timeout_s=60, poll_s=0.01)
        return found[0]

    def next_after(self, jobs: list[str], at: float) -> float | None:
        """Seconds from ``at`` until each of ``jobs`` was looked at again; None when one was not."""

        def seen() -> float | None:
            firsts: dict[str, float] = {}
            for look in self.looks():
                if look.at > at and look.job in jobs:
                    firsts.setdefault(look.job, look.at)
            return max(firsts.values()) - at if len(firsts) == len(jobs) else None

        return watch(seen)

    @contextlib.contextmanager
    def worker(self, name: str, app: str, queues: str, *, slots: int = 2, host: Host | None = None) -> Iterator[Child]:
        """A worker with ``slots`` processes, here or on another host, which reaches the servers over its own network."""
        environ, log = dict(self.environ), self.folder / f"{name}.log"
        if host is not None:
            for setting in ("TASKFLOW_REDIS_URL", "TASKFLOW_DATABASE_URL"):
                environ[setting] = environ[setting].replace("127.0.0.1", host.server)
        within = host.within if host else ()
        with worker(app, name, queues, environ=environ, log=log, slots=slots, within=within) as child:
            yield child

    @contextlib.contextmanager
    def kept_worker(self, app: str, queues: str) -> Iterator[None]:
        """The same, kept alive by our supervisor's keeper."""
        argv, log = command(app, *worker_arguments("kept", queues)), self.folder / "kept.log"
        stop = threading.Event()

        def keep() -> None:
            spec = ProcessSpec(name="worker", argv=argv, stop_signals=())
            keeper = Keeper(SupervisedProcess(spec, self.environ, log, Path.cwd()), lambda event: None)
            keeper.start()  # in this thread: a child is tied to the thread that starts it
            while not stop.wait(0.1):
                keeper.tick()
            keeper.process.kill()

        thread = threading.Thread(target=keep, name="keeper")
        thread.start()
        try:
            wait_until(lambda: log.exists() and b"ready" in log.read_bytes(), f"ready; see {log}", timeout_s=60)
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def place(also_on: Sequence[str] = ()) -> Iterator[Place]:
    """A place with nothing but its broker, which listens on the addresses ``also_on`` as well."""
    folder = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    try:
        with ValkeyServer(also_on=also_on) as server:
            yield Place(server, folder, clean_environ(BENCH_LOG=str(folder / "looks"), BENCH_BROKER=server.url))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def send(to: Place, task: str, *args: object, countdown: float | None = None) -> None:
    """Send a task to plain Celery."""
    with plain_celery.app.connection_for_write(to.server.url) as connection:
        plain_celery.app.send_task(task, args, countdown=countdown, connection=connection)


@dataclass
class OurPlace:
    """A place of ours: with an installation, and an ``App`` to start runs and look."""

    place: Place
    app: App
    owner_id: str

    def start(self, jobs: dict[str, tuple[str, float, float]]) -> None:
        """See ``bench.peers.ours.start``."""
        ours.start(self.app, self.owner_id, jobs)

    @contextlib.contextmanager
    def stopped(self, workers: Sequence[Child]) -> Iterator[None]:
        """These workers do nothing until the block ends."""

        def stop(_tx: object) -> None:
            for one in workers:
                os.killpg(one.pid, signal.SIGSTOP)

        self.app.database.write(stop)  # while we write nobody else does: they stop without a lock of SQLite's
        try:
            yield
        finally:
            for one in workers:
                os.killpg(one.pid, signal.SIGCONT)

    def commit_only(self, name: str) -> None:
        """See ``bench.peers.ours.commit_only``."""
        ours.commit_only(self.app, self.owner_id, name)


@contextlib.contextmanager
def our_place(
    database_url: str = "", more: Mapping[str, str] | None = None, also_on: Sequence[str] = ()
) -> Iterator[OurPlace]:
    """A place for taskflow; its database is SQLite unless named. ``more``: settings, as variables."""
    with place(also_on) as found:
        found.environ |= more or {}
        found.environ |= {"TASKFLOW_DATA_DIR": str(found.folder), "TASKFLOW_REDIS_URL": found.server.url}
        found.environ |= {"TASKFLOW_DATABASE_URL": database_url} if database_url else {}
        app = bootstrap(Settings.from_env(found.environ))
        upgrade(app.database.engine)
        owner_id = app.service.accounts.create_token(name="bench")["owner_id"]
        yield OurPlace(found, app, owner_id)
        app.close()
