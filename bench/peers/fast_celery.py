"""Plain Celery as its documentation makes it fast: early acknowledgement, no results, much fetched ahead.

Nothing is committed between two steps: a chain lives in its message alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from celery import Celery, chain

from bench.peers.steps import STEPS
from tests.support.seen import note

app = Celery("fast", broker=os.environ.get("BENCH_BROKER", "redis://127.0.0.1:1/0"))
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)


@app.task(name="bench.step")
def step(job: str) -> None:
    """An empty step."""
    note(os.environ["BENCH_LOG"], job)


def set_alarms(sender: Celery, due: Mapping[str, float]) -> None:
    """A message for each job, held by a worker until its time (epoch seconds)."""
    for job, at in due.items():
        sender.send_task(step.name, (job,), eta=datetime.fromtimestamp(at, timezone.utc))


def send(sender: Celery, job: str) -> None:
    """A message."""
    sender.send_task(step.name, (job,))


def start_chains(sender: Celery, jobs: Sequence[str]) -> None:
    """A chain of empty steps for each job, sent one by one."""
    for job in jobs:
        chain([sender.signature(step.name, (job,), immutable=True)] * STEPS, app=sender).apply_async()
