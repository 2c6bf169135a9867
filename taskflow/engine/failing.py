"""Errors of steps: what a bug becomes, what an overdue wait says, and what must not be kept of either."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import structlog

from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import PermanentError, StepError, TransientError
from taskflow.logs import mask

log = structlog.get_logger(__name__)


def without_secrets(error: StepError) -> StepError:
    """The same error with secrets replaced in what it says: it is stored with the run, and shown."""
    error.message = mask(error.message)
    error.advice = mask(error.advice)
    error.detail = mask(error.detail)
    return error


def unexpected(row: RunRow, error: Exception) -> TransientError:
    """What a bug in a pipeline's code becomes; called while ``error`` is being handled."""
    log.error("step_raised", run_id=row.id, step=row.step, exc_info=error)
    return TransientError(
        f"{type(error).__name__}: {error}", code="unexpected", detail={"traceback": traceback.format_exc(limit=-8)}
    )


def fail_expired(context: StepContext) -> Outcome:
    """The default end of a wait that took too long: say what was awaited, since when, until when."""
    run = context.run
    waited_s = context.now - run.step_entered_at
    what = f"{run.awaiting} was not received" if run.awaiting else "it did not finish"
    raise PermanentError(
        f"{run.step}: {what} within {waited_s:.0f} s", code="step_timeout",
        detail={"step": run.step, "awaited": run.awaiting, "since": run.step_entered_at, "until": run.deadline_at},
    )  # fmt: skip


def error_of(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The error that a run goes on or ends with, as it is stored: whoever reads one finds a code and a message in it."""
    return None if error is None else {"code": "failed", "message": "it failed", **mask(error)}


def check_decision(step: str, outcome: object) -> None:
    """Raise ``PermanentError`` unless a step returned a decision: one that forgot its ``return`` does so each time."""
    if not isinstance(outcome, (Advance, AwaitSignal, Done, Snooze)):
        raise PermanentError(f"{step} returned {outcome!r}, which is no decision", code="no_decision")
