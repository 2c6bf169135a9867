"""A Celery app with one more pipeline, for measuring alarms: ``celery -A tests.e2e.toy worker``.

``toy.wait`` snoozes until ``results["due_at"]`` and ends with how late it was.
"""

from __future__ import annotations

import taskflow.celery as real
from taskflow.bootstrap import App
from taskflow.db.runs import insert_run
from taskflow.engine.outcomes import Advance, Done, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from taskflow.ids import new_run_id

app = real.app


def wait(ctx: StepContext) -> Outcome:
    """Until the run's due time."""
    left_s = ctx.results["due_at"] - ctx.now
    return Snooze(left_s) if left_s > 0 else Done({"late_s": -left_s})


def never(ctx: StepContext, error: StepError | None = None) -> Outcome:
    """Nothing here fails or is cancelled."""
    return Advance("wait")


PIPELINE = Pipeline(
    name="toy", version=1, steps=(Step("wait", wait),), closing=frozenset(), on_cancel=never, on_failure=never
)
_get = real.process.get


def _with_toy() -> App:
    wired = _get()
    wired.pipelines.setdefault(PIPELINE.name, PIPELINE)
    return wired


real.process.get = _with_toy  # type: ignore[method-assign]


def start_runs(wired: App, owner_id: str, delays_s: list[float]) -> list[str]:
    """Start one run for each delay, in one transaction."""
    now = wired.control.now()
    rows = [
        RunRow(
            id=new_run_id(), pipeline="toy", version=1, subject_kind="toy", subject_id=f"toy-{new_run_id()}", number=1,
            owner_id=owner_id, step="wait", rev=0, step_entered_at=now, results={"due_at": now + delay_s},
        )
        for delay_s in delays_s
    ]  # fmt: skip

    def work(tx: object) -> None:
        for row in rows:
            insert_run(tx, row, created_at=now)  # type: ignore[arg-type]

    wired.database.write(work)
    wired.ringer.publish(wired.control.ensure(rows))
    return [row.id for row in rows]
