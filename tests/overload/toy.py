"""A Celery app with a pipeline that misbehaves: ``celery -A tests.overload.toy worker``.

What a run does is its ``results["kind"]``: ``fine`` ends at once, ``poison`` kills its process, ``hog`` takes memory
until somebody kills it, ``hang`` never returns, ``hang_once`` returns the second time. Each execution leaves a line.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import taskflow.celery as real
from taskflow.bootstrap import App
from taskflow.db.runs import insert_run
from taskflow.engine.outcomes import Advance, Done, Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import StepError
from taskflow.ids import new_run_id

app = real.app
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
_get = real.process.get


def _with_rough() -> App:
    wired = _get()
    wired.pipelines.setdefault(PIPELINE.name, PIPELINE)
    return wired


real.process.get = _with_rough  # type: ignore[method-assign]


def insert_runs(wired: App, owner_id: str, kinds: list[str]) -> list[RunRow]:
    """New runs in SQL, one for each kind, and nothing of them in Redis yet."""
    now = wired.control.now()
    rows = [
        RunRow(
            id=new_run_id(), pipeline="rough", version=1, subject_kind="rough", subject_id=f"rough-{new_run_id()}",
            number=1, owner_id=owner_id, step="stuck" if kind.startswith("hang") else "work", rev=0,
            step_entered_at=now, results={"kind": kind},
        )
        for kind in kinds
    ]  # fmt: skip

    def insert(tx: object) -> None:
        for row in rows:
            insert_run(tx, row, created_at=now)  # type: ignore[arg-type]

    wired.database.write(insert)
    return rows
