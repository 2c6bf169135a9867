"""``why`` for runs of pipelines of one's own: what a run waits for, since when, until when, and what happens then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Row

from taskflow.clock import isoformat
from taskflow.db.listing import last_error
from taskflow.db.own_runs import get_own_run
from taskflow.db.runs import to_row
from taskflow.db.session import Database
from taskflow.engine.control import Control
from taskflow.engine.pipeline import Pipeline
from taskflow.engine.store import RunRow
from taskflow.errors import NotFound
from taskflow.service.accounts import Caller
from taskflow.service.explain import RUNNER_SAID, control_state, error_view
from taskflow.service.views import own_run_view
from taskflow.settings import Settings


class RunExplain:
    """See the module."""

    def __init__(
        self,
        database: Database,
        control: Control,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._control = control
        self._pipelines = pipelines
        self._settings = settings
        self._now = now

    def why(self, caller: Caller, run_id: str) -> dict[str, Any]:
        """What the run waits for; the keys are those of a task's. Raises ``NotFound``."""
        with self._database.read() as tx:
            row = get_own_run(tx, caller.owner_id, run_id)
            if row is None:
                raise NotFound(
                    f"no run {run_id}", fields={"run_id": "unknown"},
                    advice="taskflow list --runs shows those that there are",
                )  # fmt: skip
            failed = last_error(tx, run_id)
        shown, run = own_run_view(row), to_row(row)
        if shown["finished"]:
            return self._at_rest(shown)
        found = control_state(self._control, run, overdue_s=self._settings.alarm_overdue_s)
        waited_s = max(0.0, self._now() - run.step_entered_at)
        return {
            "summary": self._summary(run, found, failed),
            "status": shown["status"],
            "step": run.step,
            "awaiting": run.awaiting,
            "since": isoformat(run.step_entered_at),
            "waited_s": round(waited_s, 1),
            "until": isoformat(run.deadline_at),
            "then": self._then(run),
            **found,
            "cancel_requested": shown["cancel_requested"],
            "last_error": None if failed is None or failed.step != run.step else error_view(failed),
        }

    def _at_rest(self, shown: Mapping[str, Any]) -> dict[str, Any]:
        said = f" ({shown['error']['message']})" if shown["error"] else ""
        return {
            "summary": f"nothing: it is {shown['status']}{said}", "status": shown["status"], "step": None,
            "awaiting": None, "since": None, "until": None, "then": None, "runner": "none", "error": shown["error"],
        }  # fmt: skip

    def _summary(self, run: RunRow, found: Mapping[str, Any], failed: Row[Any] | None) -> str:
        parked = self._parked(run)
        if parked is not None:
            return parked
        table = self._pipelines[run.pipeline]
        if run.cancel_requested_at is not None and run.step not in table.closing:
            said = "a cancel was requested; the runner acts on it at its next look"
        elif run.awaiting is not None:
            said = f"it is at {run.step} and waits for the signal {run.awaiting}"
        elif failed is not None and failed.step == run.step and failed.at >= run.step_entered_at:
            said = f"it is at {run.step}, which failed and is tried again: {failed.error.get('message')}"
        else:
            said = f"it is at {run.step}"
        if run.error is not None and run.step in table.closing:
            said = f"it ends ({run.error['message']}); {said}"
        return f"{said}{RUNNER_SAID.get(found['runner'], '')}"

    def _parked(self, run: RunRow) -> str | None:
        """Why no worker of this release takes the run up; None when one does."""
        table = self._pipelines.get(run.pipeline)
        if table is None:
            return (
                f"its pipeline {run.pipeline} is not registered here, so it is parked: nothing of it is lost; it goes on"
                " when a worker knows it (the setting is TASKFLOW_PIPELINES)"
            )
        if run.version > table.version:
            return f"its state was written by version {run.version} of its pipeline; a worker with it will take it up"
        return None

    def _then(self, run: RunRow) -> str:
        table = self._pipelines.get(run.pipeline)
        step = None if table is None else table.step(run.step)
        if table is None or step is None or run.deadline_at is None:
            return "it goes on when this is done"
        if step.expired is not None:
            return "the step decides what its time being over means"
        return "the step fails, and the run ends" if run.step in table.closing else "the step fails"
