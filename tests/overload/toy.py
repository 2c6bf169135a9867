"""A Celery app with a pipeline that misbehaves: ``celery -A tests.overload.toy worker``.

What a run does is its ``results["kind"]``: ``fine`` ends at once, ``poison`` kills its process, ``hog`` takes memory
until somebody kills it, ``hang`` never returns, ``hang_once`` returns the second time. Each execution leaves a line.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from taskflow.bootstrap import App
from taskflow.engine.outcomes import Advance, Done, Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from tests.support.own_pipeline import insert_runs, with_pipeline

HOG_BYTES = 300 * 1024 * 1024
STEP_LIMIT_S = 1.0
_held: list[bytearray] = []


def executions(data_dir: Path, run_id: str) -> list[int]:
    """The processes in which the run's step was begun."""
    path = data_dir / f"executed-{run_id}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def work(ctx: StepContext) -> Outcome:
    """As ``kind`` says."""
    data_dir, kind = Path(os.environ["TASKFLOW_DATA_DIR"]), ctx.results["kind"]
    with (data_dir / f"executed-{ctx.run.id}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if kind == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hog":
        _held.append(bytearray(b"x" * HOG_BYTES))
        threading.Event().wait()
    if kind == "hang" or (kind == "hang_once" and len(executions(data_dir, ctx.run.id)) == 1):
        threading.Event().wait()
    return Done({"at": ctx.now})


def failed(ctx: StepContext, error: StepError) -> Outcome:
    """The run ends with its error."""
    return Done(error=error.as_dict())


def never(ctx: StepContext) -> Outcome:
    """Nothing here is cancelled."""
    return Advance("work")


PIPELINE = Pipeline(
    name="rough", version=1, steps=(Step("work", work, timeout_s=30.0), Step("stuck", work, timeout_s=STEP_LIMIT_S)),
    closing=frozenset(), on_cancel=never, on_failure=failed,
)  # fmt: skip
app = with_pipeline(PIPELINE)


def insert_kinds(wired: App, owner_id: str, kinds: list[str]) -> list[RunRow]:
    """New runs in SQL, one for each kind, and nothing of them in Redis yet."""
    results = [{"kind": kind} for kind in kinds]
    now = wired.control.now()
    return insert_runs(
        wired, owner_id, PIPELINE, results, now=now,
        step_of=lambda found: "stuck" if found["kind"].startswith("hang") else "work",
    )  # fmt: skip
