"""Jobs on Celery and Redis alone, with the settings its documentation gives for tasks that must not be lost.

``acks_late`` and ``reject_on_worker_lost``: a task whose worker dies is delivered again. The visibility timeout stays at
its default of an hour, as the documentation asks for one longer than the longest countdown.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.support.seen import note

TICK_S = 0.5
app = Celery("plain", broker=os.environ.get("BENCH_BROKER", "redis://127.0.0.1:1/0"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_pool=os.environ.get("BENCH_POOL", "prefork"),
    broker_connection_retry_on_startup=True,
    beat_schedule={"beat": {"task": "bench.once", "schedule": 1.0, "args": ("beat",)}},
)


@app.task(name="bench.hang")
def hang(job: str, seconds: float) -> None:
    """Some seconds of work."""
    note(os.environ["BENCH_LOG"], job)
    time.sleep(seconds)  # the work that is killed in its middle


@app.task(name="bench.tick")
def tick(job: str) -> None:
    """Look again every half second, by a countdown of its own."""
    note(os.environ["BENCH_LOG"], job)
    tick.apply_async((job,), countdown=TICK_S)


@app.task(name="bench.once")
def once(job: str) -> None:
    """One look."""
    note(os.environ["BENCH_LOG"], job)
