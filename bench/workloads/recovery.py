"""How long until work goes on after something died, beside what plain Celery does in the same minute.

In each round the five cases of Celery are watched at once, each with a broker and a worker of its own, while ours run
one after the other: what Celery does here is mostly waiting.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.peers import ours
from bench.report import Measured
from taskflow.bootstrap import App, bootstrap
from taskflow.db.migrate import upgrade
from taskflow.settings import Settings
from taskflow.sweeps.ledger import last_success_at
from tests.e2e.stack import Stack, make_repository
from tests.support import plain_celery
from tests.support.celery_processes import Child, celery, clean_environ, worker
from tests.support.seen import Look, looks
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

FIGURES = ("worker_kill_s", "broker_restart_max_late_s", "redis_emptied_s", "beat_dead_s", "agent_dead_s")
#: How long something is watched before it counts as not coming.
WATCHED_S = 120.0
_HANG_S = 6.0
_WAITING = 100
_TICKING = _QUEUED = 20


def measure(rounds: int) -> Measured:
    """Measure ``rounds`` times; progress goes to standard error."""
    settings = Settings()
    found = Measured("recovery", WATCHED_S, {"lease_s": settings.lease_s, "ring_grace_s": settings.ring_grace_s})
    for number in range(1, rounds + 1):
        with ThreadPoolExecutor(len(FIGURES)) as pool:
            theirs = {name: pool.submit(_PLAIN[name]) for name in FIGURES}
            mine = {name: _tell(number, "taskflow", name, _OURS[name]()) for name in FIGURES}
            celerys = {name: _tell(number, "celery", name, theirs[name].result()) for name in FIGURES}
        found.rounds.append({"taskflow": mine, "celery": celerys})
    return found


def _tell(number: int, subject: str, name: str, value: float | None) -> float | None:
    said = f">{WATCHED_S:g}" if value is None else f"{value:.2f}"
    print(f"round {number}: {subject:<10}{name:<28}{said:>8}", file=sys.stderr, flush=True)
    return value


# --- what both sides share


@dataclass
class Place:
    """A broker, a log of looks and an environment for workers, all of their own."""

    server: ValkeyServer
    folder: Path
    environ: dict[str, str]

    @property
    def log(self) -> Path:
        """Where jobs note that they were looked at."""
        return self.folder / "looks"

    def looks(self, job: str = "") -> list[Look]:
        """Looks at ``job``, or at all whose name begins so."""
        return [look for look in looks(self.log) if look.job.startswith(job)]

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

        return _watch(seen)


def _watch(seen: Callable[[], float | None]) -> float | None:
    end = time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        value = seen()
        if value is not None:
            return value
        time.sleep(0.02)  # real processes are watched
    return None


@contextlib.contextmanager
def _place(**environ: str) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    try:
        with ValkeyServer() as server:
            given = {"BENCH_LOG": str(folder / "looks"), "BENCH_BROKER": server.url, **environ}
            yield Place(server, folder, clean_environ(**given))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _plain(slots: int = 2) -> Iterator[tuple[Place, Child]]:
    with (
        _place() as place,
        worker(
            "tests.support.plain_celery",
            "one",
            "celery",
            environ=place.environ,
            log=place.folder / "one.log",
            slots=slots,
        ) as child,
    ):
        plain_celery.app.pool.force_close_all()
        yield place, child


def _send(place: Place, task: str, *args: object, countdown: float | None = None) -> None:
    with plain_celery.app.connection_for_write(place.server.url) as connection:
        plain_celery.app.send_task(task, args, countdown=countdown, connection=connection)


@dataclass
class Running:
    """A worker of ours, what it works on, and an ``App`` to start runs and look."""

    place: Place
    app: App
    owner_id: str
    child: Child

    def start(self, jobs: dict[str, tuple[str, float, float]]) -> None:
        """See ``bench.peers.ours.start``."""
        ours.start(self.app, self.owner_id, jobs)


@contextlib.contextmanager
def _ours(slots: int = 2) -> Iterator[Running]:
    with _place() as place:
        place.environ |= {"TASKFLOW_DATA_DIR": str(place.folder), "TASKFLOW_REDIS_URL": place.server.url}
        app = bootstrap(Settings.from_env(place.environ))
        upgrade(app.database.engine)
        owner_id = app.service.accounts.create_token(name="bench")["owner_id"]
        with _our_worker(place, "one", slots) as child:
            yield Running(place, app, owner_id, child)
        app.close()


@contextlib.contextmanager
def _our_worker(place: Place, name: str, slots: int = 2) -> Iterator[Child]:
    with worker(
        "bench.peers.ours", name, "alarm,sweep", environ=place.environ, log=place.folder / f"{name}.log", slots=slots
    ) as child:
        yield child


# --- a worker is killed in a step; a second one lives


def _kill_ours() -> float | None:
    with _ours() as running, _our_worker(running.place, "two") as second:
        running.start({"hang": ("hang", 0.0, _HANG_S)})
        first = running.place.first("hang")
        return _kill_who_runs(running.place, first, running.child, second)


def _kill_plain() -> float | None:
    with (
        _plain() as (place, one),
        worker(
            "tests.support.plain_celery", "two", "celery", environ=place.environ, log=place.folder / "two.log"
        ) as two,
    ):
        _send(place, "bench.hang", "hang", _HANG_S)
        return _kill_who_runs(place, place.first("hang"), one, two)


def _kill_who_runs(place: Place, first: Look, *workers: Child) -> float | None:
    group = os.getpgid(first.pid)
    killed = time.time()
    next(child for child in workers if child.pid == group).kill()
    return place.next_after([first.job], killed)


# --- the broker is restarted, its data kept, while a hundred jobs wait for their time


def _restart_ours() -> float | None:
    with _ours() as running:
        due = time.time()
        running.start({f"once-{n}": ("once", 4 + n * 0.06, 0.0) for n in range(_WAITING)})
        return _restart(running.place, due)


def _restart_plain() -> float | None:
    with _plain() as (place, _):
        due = time.time()
        for n in range(_WAITING):
            _send(place, "bench.once", f"once-{n}", countdown=4 + n * 0.06 - (time.time() - due))
        return _restart(place, due)


def _restart(place: Place, began: float) -> float | None:
    time.sleep(max(0.0, began + 2.0 - time.time()))  # the workers have what they fetch early
    place.server.restart()
    back = time.time()

    def latest() -> float | None:
        firsts = {look.job: look.at for look in reversed(place.looks("once-"))}
        if len(firsts) < _WAITING:
            return None
        return max(at - max(back, began + 4 + int(job.split("-")[1]) * 0.06) for job, at in firsts.items())

    return _watch(latest)


# --- FLUSHALL while jobs tick, and others wait in the queue behind busy slots


def _flush_ours() -> float | None:
    with _ours() as running:
        jobs = {f"tick-{n}": ("tick", 0.0, 0.0) for n in range(_TICKING)}
        running.start(jobs)
        wait_until(lambda: len({look.job for look in running.place.looks("tick-")}) == _TICKING, "all tick")
        running.start({f"hang-{n}": ("hang", 0.0, 1.5) for n in range(2)})
        _both_hang(running.place)
        running.start({f"queued-{n}": ("once", 0.0, 0.0) for n in range(_QUEUED)})
        return _flush(running.place)


def _flush_plain() -> float | None:
    with _plain() as (place, _):
        for n in range(_TICKING):
            _send(place, "bench.tick", f"tick-{n}")
        wait_until(lambda: len({look.job for look in place.looks("tick-")}) == _TICKING, "all tick")
        for n in range(2):
            _send(place, "bench.hang", f"hang-{n}", 1.5)
        _both_hang(place)
        for n in range(_QUEUED):
            _send(place, "bench.once", f"queued-{n}")
        return _flush(place)


def _both_hang(place: Place) -> None:
    wait_until(lambda: len(place.looks("hang-")) == 2, "both slots are busy", poll_s=0.01)


def _flush(place: Place) -> float | None:
    with place.server.client() as client:
        client.flushall()
    flushed = time.time()
    return place.next_after([f"tick-{n}" for n in range(_TICKING)] + [f"queued-{n}" for n in range(_QUEUED)], flushed)


# --- beat is dead: when is what it scheduled done again?


def _beat_ours() -> float | None:
    """The rescue, which beat schedules, is done again: a worker's pump stands in for it."""
    with _ours() as running:
        place, database = running.place, running.app.database
        with celery("bench.peers.ours", "beat", "-s", str(place.folder / "beat"), environ=place.environ,
                    log=place.folder / "beat.log", ready="beat") as beat:  # fmt: skip
            wait_until(lambda: last_success_at(database, "rescue"), "beat's first rescue", timeout_s=60)
            beat.kill()
        time.sleep(2.0)  # what it had sent already runs
        before, killed = last_success_at(database, "rescue"), time.time()
        return _watch(lambda: time.time() - killed if last_success_at(database, "rescue") != before else None)


def _beat_plain() -> float | None:
    with _plain() as (place, _):
        with celery("tests.support.plain_celery", "beat", "-s", str(place.folder / "beat"), environ=place.environ,
                    log=place.folder / "beat.log", ready="beat") as beat:  # fmt: skip
            wait_until(lambda: len(place.looks("beat")) >= 2, "beat's tasks run", timeout_s=60)
            beat.kill()
        time.sleep(2.0)  # what it had sent already runs
        return place.next_after(["beat"], time.time())


# --- who runs the command dies: the node agent here, the worker's child there


def _agent_ours() -> float | None:
    """SIGKILL of the node agent while it prepares a workspace: until the task goes on, in the session it waits for."""
    folder = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    stack = Stack(folder / "data").start()
    try:
        repository = make_repository(folder / "repository")
        stack.finished(stack.submit(repository, ["true"]))
        task = stack.submit(repository, ["true"], setup_command=["sleep", "1"])
        stack.at_step(task, "workspace_ready")
        for pid in stack.agent_pids():
            os.kill(pid, signal.SIGKILL)
        killed = time.time()
        return _watch(lambda: time.time() - killed if stack.statuses(task)["in_progress"] else None)
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _agent_plain() -> float | None:
    with _plain() as (place, _):
        _send(place, "bench.hang", "hang", _HANG_S)
        first = place.first("hang")
        os.kill(first.pid, signal.SIGKILL)
        return place.next_after(["hang"], time.time())


_OURS: dict[str, Callable[[], float | None]] = dict(
    zip(FIGURES, (_kill_ours, _restart_ours, _flush_ours, _beat_ours, _agent_ours), strict=True)
)
_PLAIN: dict[str, Callable[[], float | None]] = dict(
    zip(FIGURES, (_kill_plain, _restart_plain, _flush_plain, _beat_plain, _agent_plain), strict=True)
)
