"""The product's own Celery app with one more pipeline in it, and runs of that pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taskflow.bootstrap import App
from taskflow.db.runs import insert_run
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.store import RunRow
from taskflow.ids import new_run_id


def with_pipeline(pipeline: Pipeline) -> Any:
    """The Celery app of ``taskflow.celery``; every process of it knows ``pipeline`` as well."""
    import taskflow.celery as real  # reads the environment when it is imported

    get = real.process.get

    def wired() -> App:
        app = get()
        app.pipelines.setdefault(pipeline.name, pipeline)
        return app

    real.process.get = wired  # type: ignore[method-assign]
    return real.app


def insert_runs(
    app: App,
    owner_id: str,
    pipeline: Pipeline,
    results: Sequence[dict[str, Any]],
    *,
    now: float,
    step_of: Callable[[dict[str, Any]], str] | None = None,
) -> list[RunRow]:
    """New runs in SQL, in one transaction, one for each of ``results``, and nothing of them in Redis yet.

    ``now`` (seconds, Redis time) is when each entered its step: the pipeline's first, or what ``step_of`` its results says.
    """
    rows = []
    for found in results:
        run_id = new_run_id()
        rows.append(
            RunRow(
                id=run_id, pipeline=pipeline.name, version=pipeline.version, subject_kind=pipeline.name,
                subject_id=f"{pipeline.name}-{run_id}", number=1, owner_id=owner_id,
                step=step_of(found) if step_of else pipeline.first, rev=0, step_entered_at=now, created_at=now,
                results=found,
            )
        )  # fmt: skip

    def work(tx: Any) -> None:
        for row in rows:
            insert_run(tx, row)

    app.database.write(work)
    return rows


def start_runs(
    app: App, owner_id: str, pipeline: Pipeline, results: Sequence[dict[str, Any]], *, now: float
) -> list[RunRow]:
    """The same, given their control state and rung."""
    rows = insert_runs(app, owner_id, pipeline, results, now=now)
    app.ringer.publish(app.control.ensure(rows))
    return rows
