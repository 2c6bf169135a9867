"""taskflow, as its users run it, with one more pipeline to be watched: ``celery -A bench.peers.ours worker``.

``bench.job`` does what ``results["kind"]`` says and notes each look: hang (a step of some seconds), tick (look again every
half second), once (one look, at ``due_at``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from bench.peers.steps import STEPS
from taskflow.bootstrap import App
from taskflow.db.models import Run
from taskflow.db.runs import get_run, record_signal
from taskflow.db.workspaces import WORKSPACE_OUTCOME
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.errors import StepError
from taskflow.ids import RunId
from tests.support.own_pipeline import insert_runs, start_runs, with_pipeline
from tests.support.seen import note

TICK_S = 0.5
GO = "go"


def job(ctx: StepContext) -> Outcome:
    """One look."""
    kind, due_at = ctx.results["kind"], ctx.results["due_at"]
    if ctx.now < due_at:
        return Snooze(due_at - ctx.now)
    note(os.environ["BENCH_LOG"], ctx.results["job"])
    if kind == "tick":
        return Snooze(TICK_S)
    if kind == "hang":
        time.sleep(ctx.results["seconds"])  # the work that is killed in its middle
    return Done()


def never(ctx: StepContext, error: StepError | None = None) -> Outcome:
    """Nothing here is cancelled; a job that fails begins again."""
    return Advance("job")


PIPELINE = Pipeline(
    name="bench", version=1, steps=(Step("job", job),), closing=frozenset(), on_cancel=never, on_failure=never
)


def empty(ctx: StepContext) -> Outcome:
    """A step that does nothing but note that it ran."""
    note(os.environ["BENCH_LOG"], ctx.results["job"])
    return Done() if ctx.run.step == CHAIN.steps[-1].name else Advance(ctx.next_step)


CHAIN = Pipeline(
    name="chain", version=1, steps=tuple(Step(f"step_{n}", empty) for n in range(1, STEPS + 1)), closing=frozenset(),
    on_cancel=never, on_failure=never,
)  # fmt: skip


def _waits(name: str, signal_name: str) -> Pipeline:
    """Wait for a signal, then note that it came."""

    def wait(ctx: StepContext) -> Outcome:
        if ctx.take(signal_name) is None:
            return AwaitSignal(signal_name)
        note(os.environ["BENCH_LOG"], ctx.results["job"])
        return Done()

    return Pipeline(
        name=name, version=1, steps=(Step(name, wait),), closing=frozenset(), on_cancel=never, on_failure=never
    )


PARKED = _waits("parked", GO)
CALLED = _waits("called", WORKSPACE_OUTCOME)
app = with_pipeline(PIPELINE)
with_pipeline(CALLED)
with_pipeline(CHAIN)
with_pipeline(PARKED)


def start(wired: App, owner_id: str, jobs: dict[str, tuple[str, float, float]]) -> dict[str, RunId]:
    """Start runs in one transaction: name -> (kind, seconds from now, seconds of work). Their run ids by name."""
    now = wired.control.now()
    rows = start_runs(wired, owner_id, PIPELINE, _results(jobs, now), now=now)
    return {name: row.id for name, row in zip(jobs, rows, strict=True)}


def commit_only(wired: App, owner_id: str, name: str) -> None:
    """A run whose starter died right after its commit: nothing in Redis knows it, only the rescue can find it."""
    now = wired.control.now()
    insert_runs(wired, owner_id, PIPELINE, _results({name: ("once", 0.0, 0.0)}, now), now=now)


def start_chains(wired: App, owner_id: str, jobs: Sequence[str]) -> None:
    """A run of empty steps for each job, each started durably before the next."""
    now = wired.control.now()
    for job_ in jobs:
        start_runs(wired, owner_id, CHAIN, [{"job": job_}], now=now)


def set_alarms(wired: App, owner_id: str, due: Mapping[str, float]) -> None:
    """A run for each job that looks at it at its time (epoch seconds), each started durably before the next."""
    for name, at in due.items():
        results = {"job": name, "kind": "once", "due_at": at, "seconds": 0.0}
        start_runs(wired, owner_id, PIPELINE, [results], now=wired.control.now())


def park(wired: App, owner_id: str, jobs: Sequence[str]) -> dict[str, RunId]:
    """A run for each job that waits for a signal, each started durably before the next: job -> run."""
    now = wired.control.now()
    return {name: start_runs(wired, owner_id, PARKED, [{"job": name}], now=now)[0].id for name in jobs}


def count_parked(wired: App) -> int:
    """Runs that wait for their signal."""
    with wired.database.read() as tx:
        waiting = select(func.count()).select_from(Run).where(Run.awaiting == GO, Run.finished_at.is_(None))
        return int(tx.execute(waiting).scalar_one())


def signal(wired: App, run_id: RunId) -> None:
    """Record the signal and ring the run, as every report of a node does."""

    def work(tx: Any) -> None:
        get_run(tx, run_id, lock=True)
        record_signal(tx, run_id, GO, run_id, {}, now=time.time())

    wired.database.write(work)
    wired.ringer.ring([run_id])


def _results(jobs: dict[str, tuple[str, float, float]], now: float) -> list[dict[str, Any]]:
    return [
        {"job": name, "kind": kind, "due_at": now + in_s, "seconds": seconds}
        for name, (kind, in_s, seconds) in jobs.items()
    ]
