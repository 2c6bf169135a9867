"""How long until work goes on after something died, beside what plain Celery does in the same minute.

In each round the cases of Celery are watched at once, each with a broker and a worker of its own, while ours run one after
the other: what Celery does here is mostly waiting.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.places import OURS, PLAIN, WATCHED_S, Place, our_place, place, send, watch
from bench.report import Measured
from bench.subjects import versions_of
from taskflow.settings import Settings
from taskflow.sweeps.ledger import last_success_at
from tests.e2e.stack import Stack, make_repository
from tests.support.celery_processes import Child, celery
from tests.support.seen import Look
from tests.support.waiting import wait_until

_HANG_S = 6.0
_WAITING = 100
_TICKING = _QUEUED = 20
#: After this what a dead beat had sent has run, in seconds.
_SENT_S = 2.0


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Measure ``rounds`` times; progress goes to standard error. Celery is the only peer that this can be done to."""
    settings = Settings()
    found = Measured(
        "recovery", {"lease_s": settings.lease_s, "ring_grace_s": settings.ring_grace_s}, watched_s=WATCHED_S
    )
    found.versions = {"taskflow": versions_of("taskflow"), "celery": versions_of("celery")}
    for number in range(1, rounds + 1):
        with ThreadPoolExecutor(len(CASES)) as pool:
            theirs = {name: pool.submit(plain) for name, (_, plain) in CASES.items()}
            mine = {name: _tell(number, "taskflow", name, case()) for name, (case, _) in CASES.items()}
            celerys = {name: _tell(number, "celery", name, theirs[name].result()) for name in CASES}
        found.rounds.append({"taskflow": mine, "celery": celerys})
    return found


def _tell(number: int, subject: str, name: str, value: float | None) -> float | None:
    said = f">{WATCHED_S:g}" if value is None else f"{value:.2f}"
    print(f"round {number}: {subject:<10}{name:<28}{said:>8}", file=sys.stderr, flush=True)
    return value


# --- a worker is killed in a step: a second one lives, or the supervisor starts another


def _kill_ours() -> float | None:
    with our_place() as here, here.place.worker("one", *OURS) as one, here.place.worker("two", *OURS) as two:
        here.start({"hang": ("hang", 0.0, _HANG_S)})
        return _kill_who_runs(here.place, here.place.first("hang"), one, two)


def _kill_plain() -> float | None:
    with place() as here, here.worker("one", *PLAIN) as one, here.worker("two", *PLAIN) as two:
        send(here, "bench.hang", "hang", _HANG_S)
        return _kill_who_runs(here, here.first("hang"), one, two)


def _kill_who_runs(here: Place, first: Look, *workers: Child) -> float | None:
    group = os.getpgid(first.pid)
    killed = time.time()
    next(child for child in workers if child.pid == group).kill()
    return here.next_after([first.job], killed)


def _kill_only_ours() -> float | None:
    with our_place() as here, here.place.kept_worker(*OURS):
        here.start({"hang": ("hang", 0.0, _HANG_S)})
        return _kill_only(here.place)


def _kill_only_plain() -> float | None:
    with place() as here, here.kept_worker(*PLAIN):
        send(here, "bench.hang", "hang", _HANG_S)
        return _kill_only(here)


def _kill_only(here: Place) -> float | None:
    first = here.first("hang")
    killed = time.time()
    os.killpg(os.getpgid(first.pid), signal.SIGKILL)
    return here.next_after([first.job], killed)


# --- the broker is restarted, its data kept, while a hundred jobs wait for their time


def _restart_ours() -> float | None:
    with our_place() as here, here.place.worker("one", *OURS):
        due = time.time()
        here.start({f"once-{n}": ("once", 4 + n * 0.06, 0.0) for n in range(_WAITING)})
        return _restart(here.place, due)


def _restart_plain() -> float | None:
    with place() as here, here.worker("one", *PLAIN):
        due = time.time()
        for n in range(_WAITING):
            send(here, "bench.once", f"once-{n}", countdown=4 + n * 0.06 - (time.time() - due))
        return _restart(here, due)


def _restart(here: Place, began: float) -> float | None:
    time.sleep(max(0.0, began + 2.0 - time.time()))  # the workers have what they fetch early
    here.server.restart()
    back = time.time()

    def latest() -> float | None:
        firsts = {look.job: look.at for look in reversed(here.looks("once-"))}
        if len(firsts) < _WAITING:
            return None
        return max(at - max(back, began + 4 + int(job.split("-")[1]) * 0.06) for job, at in firsts.items())

    return watch(latest)


# --- all data of the broker is lost while jobs tick, and others wait in the queue behind busy slots


def _empty_ours(empty: Callable[[Place], None]) -> float | None:
    with our_place() as here, here.place.worker("one", *OURS):
        here.start({f"tick-{n}": ("tick", 0.0, 0.0) for n in range(_TICKING)})
        _all_tick(here.place)
        here.start({f"hang-{n}": ("hang", 0.0, 1.5) for n in range(2)})
        _both_hang(here.place)
        here.start({f"queued-{n}": ("once", 0.0, 0.0) for n in range(_QUEUED)})
        return _goes_on(here.place, empty)


def _empty_plain(empty: Callable[[Place], None]) -> float | None:
    with place() as here, here.worker("one", *PLAIN):
        for n in range(_TICKING):
            send(here, "bench.tick", f"tick-{n}")
        _all_tick(here)
        for n in range(2):
            send(here, "bench.hang", f"hang-{n}", 1.5)
        _both_hang(here)
        for n in range(_QUEUED):
            send(here, "bench.once", f"queued-{n}")
        return _goes_on(here, empty)


def _all_tick(here: Place) -> None:
    wait_until(lambda: len({look.job for look in here.looks("tick-")}) == _TICKING, "all tick", timeout_s=60)


def _both_hang(here: Place) -> None:
    wait_until(lambda: len(here.looks("hang-")) == 2, "both slots are busy", poll_s=0.01, timeout_s=60)


def _goes_on(here: Place, empty: Callable[[Place], None]) -> float | None:
    empty(here)
    reachable = time.time()
    return here.next_after([f"tick-{n}" for n in range(_TICKING)] + [f"queued-{n}" for n in range(_QUEUED)], reachable)


def _flush(here: Place) -> None:
    with here.server.client() as client:
        client.flushall()


def _wipe(here: Place) -> None:
    here.server.wipe()
    here.server.start()


# --- beat is dead: when is what it scheduled done again?


def _beat_ours() -> float | None:
    """A run that only the rescue can find begins: beat schedules the rescue, a worker's pump stands in for it."""
    with our_place() as here, here.place.worker("one", *OURS):
        with _beat(here.place, OURS[0]) as beat:
            wait_until(lambda: last_success_at(here.app.database, "rescue"), "beat's first rescue", timeout_s=60)
            beat.kill()
            killed = time.time()
        time.sleep(_SENT_S)
        here.commit_only("lost")
        return here.place.next_after(["lost"], killed)


def _beat_plain() -> float | None:
    """What beat sends every second is done again."""
    with place() as here, here.worker("one", *PLAIN):
        with _beat(here, PLAIN[0]) as beat:
            wait_until(lambda: len(here.looks("beat")) >= 2, "beat's tasks run", timeout_s=60)
            beat.kill()
        time.sleep(_SENT_S)
        return here.next_after(["beat"], time.time())


def _beat(here: Place, app: str) -> contextlib.AbstractContextManager[Child]:
    log = here.folder / "beat.log"
    return celery(app, "beat", "-s", str(here.folder / "beat"), environ=here.environ, log=log, ready="beat")


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
        return watch(lambda: time.time() - killed if stack.statuses(task)["in_progress"] else None)
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _agent_plain() -> float | None:
    with place() as here, here.worker("one", *PLAIN):
        send(here, "bench.hang", "hang", _HANG_S)
        first = here.first("hang")
        os.kill(first.pid, signal.SIGKILL)
        return here.next_after(["hang"], time.time())


Case = Callable[[], float | None]
#: What is printed, each with our case and that of plain Celery.
CASES: dict[str, tuple[Case, Case]] = {
    "worker_kill_s": (_kill_ours, _kill_plain),
    "worker_restart_s": (_kill_only_ours, _kill_only_plain),
    "broker_restart_max_late_s": (_restart_ours, _restart_plain),
    "redis_emptied_s": (lambda: _empty_ours(_flush), lambda: _empty_plain(_flush)),
    "redis_wiped_s": (lambda: _empty_ours(_wipe), lambda: _empty_plain(_wipe)),
    "beat_dead_s": (_beat_ours, _beat_plain),
    "agent_dead_s": (_agent_ours, _agent_plain),
}
