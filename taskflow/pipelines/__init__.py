"""Pipelines: the shipped one (``agent_task``), and everything that is needed to declare one of your own.

A pipeline is a table of steps; a step is a function that returns a decision and writes nothing:

* ``Advance(ctx.next_step, results)`` goes on, ``Done(result)`` ends the run;
* ``AwaitSignal(name)`` parks it until the signal is there or the step's ``limit_s`` is over, ``Snooze(seconds)`` a while;
* raising ``TransientError`` tries again, with a backoff or after ``retry_after_s``; raising ``PermanentError`` fails.

docs/how-to/own-pipelines.md shows one from its declaration to its tests.
"""

from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Effect, Outcome, Refused, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext, end_cancelled, end_failed
from taskflow.engine.store import Signal
from taskflow.errors import CapacityError, OutcomeUnknown, PermanentError, StepError, TransientError
from taskflow.pipelines.tools import Callback, Tools

__all__ = [
    "Advance",
    "AwaitSignal",
    "Callback",
    "CapacityError",
    "Done",
    "Effect",
    "Outcome",
    "OutcomeUnknown",
    "PermanentError",
    "Pipeline",
    "Refused",
    "Signal",
    "Snooze",
    "Step",
    "StepContext",
    "StepError",
    "Tools",
    "TransientError",
    "end_cancelled",
    "end_failed",
]
