"""Procrastinate: each step defers the next one; jobs and their due times are rows in PostgreSQL.

``worker URL`` is a worker, ``client URL`` makes the tables and serves.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime, timezone

import procrastinate

from bench.peers.commands import commands
from bench.peers.steps import STEPS
from tests.support.seen import note

LOG, URL = os.environ["BENCH_LOG"], sys.argv[2]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL))


@app.task(name="once")
async def once(job: str) -> None:
    """One look."""
    note(LOG, job)


@app.task(name="step")
async def step(job: str, left: int) -> None:
    """An empty step, then the next."""
    note(LOG, job)
    if left:
        await step.defer_async(job=job, left=left - 1)


async def work() -> None:
    """Ten jobs at once; what is done is deleted, what is due is looked for often."""
    async with app.open_async():
        await app.run_worker_async(concurrency=10, fetch_job_polling_interval=0.05, delete_jobs="successful")


def serve() -> None:
    """Defer what is asked for."""
    client = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=URL))
    with client.open():
        client.schema_manager.apply_schema()
        for name, argument in commands():
            if name == "start":
                for job in argument:
                    client.configure_task("step").defer(job=job, left=STEPS - 1)
            elif name == "alarm":
                for job, at in argument.items():
                    due = datetime.fromtimestamp(at, timezone.utc)
                    client.configure_task("once", schedule_at=due).defer(job=job)
            elif name == "signal":
                client.configure_task("once").defer(job=argument)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(work())
    else:
        serve()
