"""The toy pipeline of ``taskflow doctor --demonstrate``. Each look of its step is a line in the file ``LOOKS`` names."""

from __future__ import annotations

import os
import time
from typing import Any

from taskflow.db.events import append_event
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Effect, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.errors import StepError

LOOKS = "TASKFLOW_DEMO_LOOKS"
ANSWER = "demo.answer"
#: The event that is written with a step's result: whoever counts them counts effects.
EFFECT = "demo_effect"
#: How long the step takes that is killed in its middle, and how often a ticking run looks, in seconds.
WORK_S, TICK_S = 3.0, 0.2


def work(ctx: StepContext) -> Outcome:
    """What the run's ``kind`` says: hang, tick, once or answered."""
    kind = ctx.results["kind"]
    if kind == "answered" and ctx.take(ANSWER) is None:
        return AwaitSignal(ANSWER)
    _note(ctx)
    if kind == "tick" and ctx.now < ctx.results["until"]:
        return Snooze(TICK_S)
    if kind == "hang":
        time.sleep(WORK_S)
    return Done(effects=(_effect(ctx),))


def _note(ctx: StepContext) -> None:
    # One short line with O_APPEND: lines of several processes never mix.
    descriptor = os.open(os.environ[LOOKS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{ctx.run.id} {time.time():.6f} {os.getpid()} {os.getpgrp()}\n".encode())
    finally:
        os.close(descriptor)


def _effect(ctx: StepContext) -> Effect:
    """An event in the transaction that applies the step's result."""
    run, now = ctx.run, ctx.now

    def effect(tx: Any) -> None:
        append_event(
            tx, owner_id=run.owner_id, subject_kind=run.subject_kind, subject_id=run.subject_id, run_id=run.id,
            kind=EFFECT, step=run.step, actor="runner", at=now,
        )  # fmt: skip

    return effect


def _again(ctx: StepContext, error: StepError | None = None) -> Outcome:
    """Nothing here is cancelled, and what fails begins again."""
    return Advance("work")


PIPELINE = Pipeline(
    name="demonstration", version=1, steps=(Step("work", work),), closing=frozenset(), on_cancel=_again,
    on_failure=_again,
)  # fmt: skip
