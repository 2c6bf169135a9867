"""The step table: a pipeline is a name, a version and an ordered tuple of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow.engine.outcomes import Advance, Done, Outcome
from taskflow.engine.store import RunRow, Signal
from taskflow.errors import StepError

#: Where the results of a run hold what it was started with; names that begin with ``$`` are no step's.
INPUT = "$input"
#: The code of the error of a run that was cancelled.
CANCELLED = "cancelled"
#: What a step says is longer than this is taken for this long: ten years.
LONGEST_S = 10 * 366 * 86_400.0


def bounded_s(seconds: float) -> float:
    """A length of time of which a due time can be made: a run that is due in infinity would never be looked at again.

    From 0 to ``LONGEST_S``; what is not a number is 0.
    """
    return min(max(0.0, seconds), LONGEST_S)


@dataclass
class StepContext:
    """What a step sees: its run, the signals recorded so far, the time, and how often it was tried.

    ``now`` is Redis time in seconds (plus the monotonic time since the turn began): compare stored times only with it.
    """

    run: RunRow
    signals: tuple[Signal, ...]
    now: float
    attempt: int
    fires: int
    pipeline: Pipeline
    consumed: list[int] = field(default_factory=list)
    #: The runner's half of ``ensure_ours``; None in ``on_failure``, where nothing is bought or started, and where
    #: no runner made this: then there is nobody to lose the run to.
    fence: Callable[[bool], float] | None = None

    @property
    def results(self) -> Mapping[str, Any]:
        """Results of the steps before."""
        return self.run.results

    @property
    def input(self) -> Mapping[str, Any]:
        """What the run was started with, as the pipeline's input schema loaded it; empty when it has none."""
        found: Mapping[str, Any] = self.run.results.get(INPUT, {})
        return found

    def idempotency_key(self, effect: str = "", *, step: str | None = None) -> str:
        """A text for the other side of a call, the same whenever this step of this run asks for ``effect``.

        A step may be performed again after its worker died: a call that carries the key is done once. A step that calls
        twice, or is come back to, names what it does. ``step``: the key of another one, for asking what became of its
        call: a run that is cancelled or given up then has no result of what a dead worker did.
        """
        return ":".join(part for part in (self.run.id, step or self.run.step, effect) if part)

    def ensure_ours(self, *, uncancelled: bool = False) -> float:
        """Make sure that the run is still this turn's, directly before a call that must not be made twice; the time then.

        The lease is renewed, and the row has to be the one that the turn read. ``uncancelled``: no cancel may be
        requested by now either, for what is bought or started; a closing step does not ask for that. Raises
        ``taskflow.engine.store.Superseded``, which a step lets pass: the run goes on from its row, with whoever has it.
        """
        return self.now if self.fence is None else self.fence(uncancelled)

    @property
    def next_step(self) -> str:
        """The step after this one in the table, skipped ones left out."""
        return self.pipeline.after(self.run.step)

    def is_recorded(self, name: str) -> bool:
        """Whether there is an unconsumed signal ``name``; it is left for the step that awaits it."""
        return any(signal.name == name and signal.id not in self.consumed for signal in self.signals)

    @property
    def answered_in_time(self) -> bool:
        """Whether the awaited signal was recorded before the step's time was over, even if it is looked at only now."""
        return any(
            signal.name == self.run.awaiting and signal.recorded_at <= (self.run.deadline_at or signal.recorded_at)
            for signal in self.signals
        )

    def take(self, name: str) -> Signal | None:
        """The oldest unconsumed signal ``name``, which the apply of this step's decision will mark consumed.

        A ``Snooze`` and a raised error write nothing: after them it is there again.
        """
        for signal in self.signals:
            if signal.name == name and signal.id not in self.consumed:
                self.consumed.append(signal.id)
                return signal
        return None


StepFunction = Callable[[StepContext], Outcome]


@dataclass(frozen=True)
class Step:
    """One row of the table.

    ``timeout_s`` bounds one call of ``perform`` (then the lease is no longer renewed and another worker takes over).
    ``limit_s`` bounds the stay in the step, waits and retries included; ``expired`` decides what happens then
    (default: the step fails, saying what was awaited since when). ``since``: from when the limit is counted, where a run
    may come back to the step; None = from this stay's begin. ``guarded``: it buys, creates or starts something, so it
    is entered only while no cancel is requested. ``max_attempts`` None = the setting; 0 = until the limit.
    ``skip``: the place is kept, the run goes past it.
    """

    name: str
    perform: StepFunction
    timeout_s: float = 60.0
    limit_s: float | Callable[[RunRow], float | None] | None = None
    expired: StepFunction | None = None
    since: Callable[[RunRow], float | None] | None = None
    guarded: bool = False
    max_attempts: int | None = None
    skip: bool = False

    def deadline_after(self, run: RunRow, entered_at: float) -> float | None:
        """When a stay that began at ``entered_at`` must end."""
        limit = self.limit_s(run) if callable(self.limit_s) else self.limit_s
        began = self.since(run) if self.since is not None else None
        return None if limit is None else (entered_at if began is None else began) + bounded_s(limit)


def end_cancelled(ctx: StepContext) -> Outcome:
    """The default for a cancel: to the first closing step with the error ``cancelled``, or to the end if there is none."""
    reason = ctx.run.cancel_reason or "somebody cancelled it"
    error = {"code": CANCELLED, "message": reason, "step": ctx.run.step}
    closing = ctx.pipeline.first_closing
    return Done(error=error) if closing is None else Advance(closing, error=error, reason=ctx.run.cancel_reason)


def end_failed(ctx: StepContext, error: StepError) -> Outcome:
    """The default for a step that gave up: to the first closing step with its error, or to the end if there is none.

    A closing step that gives up ends the run. Its error is kept beside the cause and never hides it.
    """
    said = {**error.as_dict(), "step": ctx.run.step}
    if ctx.run.step in ctx.pipeline.closing:
        return Done(error=said if ctx.run.error is None else {**ctx.run.error, "closing_failed": said})
    closing = ctx.pipeline.first_closing
    return Done(error=said) if closing is None else Advance(closing, error=said, reason=error.message)


@dataclass(frozen=True)
class Pipeline:
    """A table of steps. ``closing`` names the steps that run to their end whatever happens (cleanup).

    ``on_cancel`` and ``on_failure`` decide where a run goes from a step that is not closing; ``on_failure`` is also
    asked when a closing step gave up, and must end the run then.

    ``input_schema`` and ``signals`` are for who starts runs and sends signals, the runner reads neither: a marshmallow
    schema that an input must fit (None: no input is taken), and the names of signals that it waits for (empty: any).
    """

    name: str
    version: int
    steps: tuple[Step, ...]
    closing: frozenset[str] = frozenset()
    on_cancel: StepFunction = end_cancelled
    on_failure: Callable[[StepContext, StepError], Outcome] = end_failed
    input_schema: Any = None
    signals: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names) or not self.closing <= set(names):
            raise ValueError(f"pipeline {self.name}: step names must be unique and closing steps among them")
        if all(step.skip for step in self.steps):
            raise ValueError(f"pipeline {self.name} has no step")

    @property
    def first(self) -> str:
        """Where a run starts."""
        return next(step.name for step in self.steps if not step.skip)

    @property
    def first_closing(self) -> str | None:
        """The closing step that comes first in the table; None when there is none."""
        return next((step.name for step in self.steps if step.name in self.closing and not step.skip), None)

    def step(self, name: str) -> Step | None:
        """The row called ``name``."""
        return next((step for step in self.steps if step.name == name), None)

    def after(self, name: str) -> str:
        """The next row that is not skipped. Raises ``LookupError`` after the last one."""
        names = [step.name for step in self.steps]
        for step in self.steps[names.index(name) + 1 :]:
            if not step.skip:
                return step.name
        raise LookupError(f"{self.name}: nothing follows {name}")
