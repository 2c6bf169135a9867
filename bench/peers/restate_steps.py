"""A Restate service: each step is a journaled ``run``; served by hypercorn, called by the Restate server."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import restate

from bench.peers.steps import STEPS
from tests.support.seen import note

LOG = os.environ["BENCH_LOG"]
tasks = restate.Service("tasks")
waiting = restate.Workflow("waiting")


@tasks.handler()
async def chain(ctx: restate.Context, job: str) -> None:
    """A task."""
    for number in range(STEPS):
        await ctx.run_typed(f"step_{number}", note, path=LOG, job=job)


@tasks.handler()
async def alarm(ctx: restate.Context, due: list) -> None:  # type: ignore[type-arg]
    """A durable sleep."""
    job, at = due
    await ctx.sleep(timedelta(seconds=max(0.0, at - time.time())))
    note(LOG, job)


@waiting.main()
async def run(ctx: restate.WorkflowContext, job: str) -> None:
    """Wait for a promise."""
    await ctx.promise("go").value()
    note(LOG, job)


@waiting.handler()
async def signal(ctx: restate.WorkflowSharedContext, job: str) -> None:
    """Keep it."""
    await ctx.promise("go").resolve("go")


app = restate.app([tasks, waiting])
