"""More workers: the same backlog, drained by one, two and four processes, and by two hosts with one each.

On PostgreSQL. The workers are stopped while the tasks are submitted, so that what is timed is their work alone; whose
processor time it took says what would be the limit elsewhere.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from bench.hosts import hosts
from bench.measuring import Figures
from bench.measuring import measure as rounds_of
from bench.peers import ours
from bench.peers.steps import STEPS
from bench.places import OURS, OurPlace, our_place
from bench.report import Measured
from bench.subjects import LogReader, versions_of, wait_looks
from bench.weighing import processor_s
from tests.support.celery_processes import Child
from tests.support.servers import PostgresServer

TASKS = 1000
_WARM = 50


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Steps a second, and milliseconds of processor time that a step took: of the workers, PostgreSQL and Valkey."""
    found = Measured("scale", {"tasks": TASKS, "steps": STEPS})
    rounds_of(found, rounds, CASES)
    found.versions = {"taskflow": versions_of("taskflow")}
    return found


def _processes(slots: int) -> Figures:
    with PostgresServer(durable=True) as server, our_place(server.create_database("bench")) as here:
        return _drained(here, server, [here.place.worker("one", *OURS, slots=slots)])


def _hosts(count: int) -> Figures:
    with hosts(count) as others:
        networks, addresses = [one.network for one in others], [one.server for one in others]
        with (
            PostgresServer(durable=True, also_on=networks) as server,
            our_place(server.create_database("bench"), also_on=addresses) as here,
        ):
            return _drained(here, server, [here.place.worker(one.name, *OURS, slots=1, host=one) for one in others])


#: Who drains it -> how.
CASES: dict[str, Callable[[], Figures]] = {
    "one_process": lambda: _processes(1),
    "two_processes": lambda: _processes(2),
    "four_processes": lambda: _processes(4),
    "two_hosts": lambda: _hosts(2),
}


def _drained(here: OurPlace, server: PostgresServer, workers: Sequence[AbstractContextManager[Child]]) -> Figures:
    looks = LogReader(here.place.folder / "looks")
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(one) for one in workers]
        stores = {"postgres": server.pid or 0, "valkey": here.place.server.pid or 0}
        ours.start_chains(here.app, here.owner_id, [f"warm-{n}" for n in range(_WARM)])
        wait_looks(looks, _WARM * STEPS)
        with here.stopped(children):
            ours.start_chains(here.app, here.owner_id, [f"all-{n}" for n in range(TASKS)])
            before = _spent(children, stores)
            began = time.time()
        ended = max(look.at for look in wait_looks(looks, TASKS * STEPS))
        after = _spent(children, stores)
    return {
        "steps_per_s": round(TASKS * STEPS / (ended - began), 1),
        **{f"{who}_ms_per_step": round((after[who] - before[who]) * 1000 / (TASKS * STEPS), 3) for who in after},
    }


def _spent(children: Sequence[Child], stores: dict[str, int]) -> dict[str, float]:
    spent = {name: processor_s(pid) for name, pid in stores.items()}
    return {"workers": sum(processor_s(child.pid) for child in children), **spent}
