"""More workers: the same backlog, drained by one, two and four processes, and by two hosts with one each.

On PostgreSQL. The workers are stopped while the tasks are submitted, so that what is timed is their work alone; whose
processor time it took says what would be the limit elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from bench.hosts import Host, hosts
from bench.measuring import Figures
from bench.peers import ours
from bench.peers.steps import STEPS
from bench.places import OURS, OurPlace, our_place
from bench.report import Measured
from bench.subjects import LogReader, Missing, versions_of, wait_looks
from bench.weighing import processor_s
from tests.support.celery_processes import Child, worker
from tests.support.servers import PostgresServer

TASKS = 1000
_WARM = 50


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Steps a second, and milliseconds of processor time that a step took: of the workers, PostgreSQL and Valkey."""
    found = Measured("scale", {"tasks": TASKS, "steps": STEPS})
    for number in range(1, rounds + 1):
        figures: dict[str, Figures] = {}
        for name, case in CASES.items():
            if name in found.missing:
                continue
            try:
                figures[name] = case()
            except Missing as missing:
                found.missing[name] = str(missing)
            said = found.missing.get(name) or "  ".join(f"{key} {value}" for key, value in figures[name].items())
            print(f"round {number}: {name:<18}{said}", file=sys.stderr, flush=True)
        found.rounds.append(figures)
    found.versions = {"taskflow": versions_of("taskflow")}
    return found


def _processes(slots: int) -> Figures:
    with PostgresServer(durable=True) as server, our_place(server.create_database("bench")) as here:
        return _drained(here, server, [_worker(here, "one", slots)])


def _hosts(count: int) -> Figures:
    with hosts(count) as others:
        networks, addresses = [one.network for one in others], [one.server for one in others]
        with (
            PostgresServer(durable=True, also_on=networks) as server,
            our_place(server.create_database("bench"), also_on=addresses) as here,
        ):
            return _drained(here, server, [_worker(here, one.name, 1, one) for one in others])


#: Who drains it -> how.
CASES: dict[str, Callable[[], Figures]] = {
    "one_process": lambda: _processes(1),
    "two_processes": lambda: _processes(2),
    "four_processes": lambda: _processes(4),
    "two_hosts": lambda: _hosts(2),
}


def _worker(here: OurPlace, name: str, slots: int, host: Host | None = None) -> AbstractContextManager[Child]:
    environ = dict(here.place.environ)
    if host is not None:
        for setting in ("TASKFLOW_REDIS_URL", "TASKFLOW_DATABASE_URL"):
            environ[setting] = environ[setting].replace("127.0.0.1", host.server)
    log = here.place.folder / f"{name}.log"
    return worker(*OURS[:1], name, *OURS[1:], environ=environ, log=log, slots=slots, within=host.within if host else ())


def _drained(here: OurPlace, server: PostgresServer, workers: Sequence[AbstractContextManager[Child]]) -> Figures:
    looks = LogReader(here.place.folder / "looks")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(one) for one in workers]
        stores = {"postgres": server.pid or 0, "valkey": here.place.server.pid or 0}
        ours.start_chains(here.app, here.owner_id, [f"warm-{n}" for n in range(_WARM)])
        wait_looks(looks, _WARM * STEPS)
        with _stopped(children):
            ours.start_chains(here.app, here.owner_id, [f"all-{n}" for n in range(TASKS)])
            before = _spent(children, stores)
            began = time.time()
        ended = max(look.at for look in wait_looks(looks, TASKS * STEPS))
        after = _spent(children, stores)
    return {
        "steps_per_s": round(TASKS * STEPS / (ended - began), 1),
        **{f"{who}_ms_per_step": round((after[who] - before[who]) * 1000 / (TASKS * STEPS), 3) for who in after},
    }


@contextlib.contextmanager
def _stopped(children: Sequence[Child]) -> Iterator[None]:
    for child in children:
        os.killpg(child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for child in children:
            os.killpg(child.pid, signal.SIGCONT)


def _spent(children: Sequence[Child], stores: dict[str, int]) -> dict[str, float]:
    spent = {name: processor_s(pid) for name, pid in stores.items()}
    return {"workers": sum(processor_s(child.pid) for child in children), **spent}
