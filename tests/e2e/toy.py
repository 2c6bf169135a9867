"""A Celery app with one more pipeline, for measuring alarms: ``celery -A tests.e2e.toy worker``.

``toy.wait`` snoozes until ``results["due_at"]`` and ends with how late it was. ``deadly.kill`` kills the process it runs in
the first time and ends the second time; ``results["marker"]`` is the file by which it knows.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from taskflow.bootstrap import App
from taskflow.engine.outcomes import Advance, Done, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.errors import StepError
from tests.support import own_pipeline
from tests.support.own_pipeline import with_pipeline


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


def kill(ctx: StepContext) -> Outcome:
    """Take this process along, once."""
    marker = Path(ctx.results["marker"])
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Done()


DEADLY = Pipeline(
    name="deadly", version=1, steps=(Step("kill", kill),), closing=frozenset(), on_cancel=never, on_failure=never
)
app = with_pipeline(PIPELINE)
with_pipeline(DEADLY)


def start_runs(wired: App, owner_id: str, delays_s: list[float]) -> list[str]:
    """Start one run for each delay, in one transaction."""
    now = wired.control.now()
    results = [{"due_at": now + delay_s} for delay_s in delays_s]
    return [row.id for row in own_pipeline.start_runs(wired, owner_id, PIPELINE, results, now=now)]
