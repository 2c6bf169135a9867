"""DBOS as its documentation has it: workflows and steps in the process that starts them, state in PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

from dbos import DBOS, DBOSClient, SetWorkflowID

from bench.peers.commands import commands
from bench.peers.steps import STEPS
from tests.support.seen import note

LOG = os.environ["BENCH_LOG"]


@DBOS.step()
def step(job: str) -> None:
    """An empty step."""
    note(LOG, job)


@DBOS.workflow()
def chain(job: str) -> None:
    """A task."""
    for _ in range(STEPS):
        step(job)


@DBOS.workflow()
async def alarm(job: str, in_s: float) -> None:
    """A durable sleep."""
    await DBOS.sleep_async(in_s)
    note(LOG, job)


@DBOS.workflow()
async def parked(job: str) -> None:
    """Wait for a message."""
    await DBOS.recv_async("go", timeout_seconds=3600)
    note(LOG, job)


async def set_alarms(due: dict[str, float]) -> None:
    """Sleeping workflows are coroutines: thousands fit into a process."""
    for job, at in due.items():
        await DBOS.start_workflow_async(alarm, job, max(0.0, at - time.time()))


async def park(jobs: list[str]) -> None:
    """The same; a message finds its workflow by the name of the job."""
    for job in jobs:
        with SetWorkflowID(job):
            await DBOS.start_workflow_async(parked, job)


def main() -> None:
    """Serve."""
    url = sys.argv[1]
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    client = DBOSClient(system_database_url=url)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def asynchronously(work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result()

    for name, argument in commands():
        if name == "start":
            for job in argument:
                DBOS.start_workflow(chain, job)
        elif name == "alarm":
            asynchronously(set_alarms(argument))
        elif name == "park":
            asynchronously(park(argument))
        elif name == "signal":
            client.send(argument, "go", "go")


if __name__ == "__main__":
    main()
