"""taskflow, as its users run it, with one more pipeline to be watched: ``celery -A bench.peers.ours worker``.

``bench.job`` does what ``results["kind"]`` says and notes each look: hang (a step of some seconds), tick (look again every
half second), once (one look, at ``due_at``).
"""

from __future__ import annotations

import os
import time

import taskflow.celery as real
from taskflow.bootstrap import App
from taskflow.db.runs import insert_run
from taskflow.engine.outcomes import Advance, Done, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from taskflow.ids import RunId, new_run_id
from tests.support.seen import note

app = real.app
TICK_S = 0.5


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
_get = real.process.get


def _with_jobs() -> App:
    wired = _get()
    wired.pipelines.setdefault(PIPELINE.name, PIPELINE)
    return wired


real.process.get = _with_jobs  # type: ignore[method-assign]


def start(wired: App, owner_id: str, jobs: dict[str, tuple[str, float, float]]) -> dict[str, RunId]:
    """Start runs in one transaction: name -> (kind, seconds from now, seconds of work). Their run ids by name."""
    now = wired.control.now()
    rows = {
        name: RunRow(
            id=new_run_id(), pipeline=PIPELINE.name, version=1, subject_kind="bench", subject_id=name, number=1,
            owner_id=owner_id, step="job", rev=0, step_entered_at=now,
            results={"job": name, "kind": kind, "due_at": now + in_s, "seconds": seconds},
        )
        for name, (kind, in_s, seconds) in jobs.items()
    }  # fmt: skip

    def work(tx: object) -> None:
        for row in rows.values():
            insert_run(tx, row, created_at=now)  # type: ignore[arg-type]

    wired.database.write(work)
    wired.ringer.publish(wired.control.ensure(list(rows.values())))
    return {name: row.id for name, row in rows.items()}
