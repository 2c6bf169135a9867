"""What is told of the work that goes on, for whoever counts or traces it. One interface; by default nobody listens.

Nothing here may raise, wait or cost much: it is called in every turn. What it is told never decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from taskflow.engine.outcomes import Advance, AwaitSignal, Outcome, Snooze
from taskflow.engine.store import RunRow
from taskflow.errors import StepError

#: Called once when what began is over, with what became of it: one word of a few.
Ended = Callable[[str], None]


class Meter(Protocol):
    """Listens. ``*_begins`` answers with what is to be called at the end; the rest is over when it is told."""

    def alarm_fired(self, late_s: float, *, taken_over: bool) -> None:
        """A turn begins, so late. ``taken_over``: the turn before it took the lease and never came back."""

    def step_begins(self, run: RunRow, attempt: int) -> Ended:
        """An attempt of the step that ``run`` is at."""

    def run_ended(self, run: RunRow) -> None:
        """A run is over."""

    def rescued(self, *, rebuilt: int, rung: int) -> None:
        """A page of the rescue rebuilt control state, and rang runs for a signal that was recorded."""

    def run_submitted(self, run: RunRow, took_s: float) -> None:
        """A run was made at somebody's request, which took so long until here."""

    def call_begins(self, what: str) -> Ended:
        """A request to a node agent; ``what``: one of a few names."""

    def call_headers(self) -> Mapping[str, str]:
        """What such a request carries, so that the other side can tell what it belongs to."""

    def callback(self, kind: str, outcome: str, *, run_id: str, took_s: float) -> None:
        """A node or workspace reported, which took so long. ``outcome``: recorded, or the class of the refusal.

        ``run_id``: the run that it was for, where it ends a wait of one; else empty.
        """

    def sweep_ended(self, name: str, result: str, took_s: float) -> None:
        """A scheduled job ran: ok, degraded, failed or paused."""

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """An HTTP request was answered. ``route``: the rule, never the path."""

    def close(self) -> None:
        """The process ends: send what is still held."""


def _nothing(_became: str) -> None:
    pass


class Silent:
    """Nobody listens; also what a meter begins with that cares for some of it only."""

    def alarm_fired(self, late_s: float, *, taken_over: bool) -> None:
        """See ``Meter``."""

    def step_begins(self, run: RunRow, attempt: int) -> Ended:
        """See ``Meter``."""
        return _nothing

    def run_ended(self, run: RunRow) -> None:
        """See ``Meter``."""

    def rescued(self, *, rebuilt: int, rung: int) -> None:
        """See ``Meter``."""

    def run_submitted(self, run: RunRow, took_s: float) -> None:
        """See ``Meter``."""

    def call_begins(self, what: str) -> Ended:
        """See ``Meter``."""
        return _nothing

    def call_headers(self) -> Mapping[str, str]:
        """See ``Meter``."""
        return {}

    def callback(self, kind: str, outcome: str, *, run_id: str, took_s: float) -> None:
        """See ``Meter``."""

    def sweep_ended(self, name: str, result: str, took_s: float) -> None:
        """See ``Meter``."""

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """See ``Meter``."""

    def close(self) -> None:
        """See ``Meter``."""


SILENT: Meter = Silent()


class Meters:
    """Tells several."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    def alarm_fired(self, late_s: float, *, taken_over: bool) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.alarm_fired(late_s, taken_over=taken_over)

    def step_begins(self, run: RunRow, attempt: int) -> Ended:
        """See ``Meter``."""
        return _each([meter.step_begins(run, attempt) for meter in self._meters])

    def run_ended(self, run: RunRow) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.run_ended(run)

    def rescued(self, *, rebuilt: int, rung: int) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.rescued(rebuilt=rebuilt, rung=rung)

    def run_submitted(self, run: RunRow, took_s: float) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.run_submitted(run, took_s)

    def call_begins(self, what: str) -> Ended:
        """See ``Meter``."""
        return _each([meter.call_begins(what) for meter in self._meters])

    def call_headers(self) -> Mapping[str, str]:
        """See ``Meter``."""
        return {name: value for meter in self._meters for name, value in meter.call_headers().items()}

    def callback(self, kind: str, outcome: str, *, run_id: str, took_s: float) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.callback(kind, outcome, run_id=run_id, took_s=took_s)

    def sweep_ended(self, name: str, result: str, took_s: float) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.sweep_ended(name, result, took_s)

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.request(method, route, status, took_s)

    def close(self) -> None:
        """See ``Meter``."""
        for meter in self._meters:
            meter.close()


def _each(ends: Sequence[Ended]) -> Ended:
    def ended(became: str) -> None:
        for end in reversed(ends):
            end(became)

    return ended


@dataclass
class Told:
    """What one turn did last, for who looks at its message: the step, and what it decided."""

    step: str = ""
    outcome: str = ""


def outcome_name(outcome: Outcome | StepError, *, retried: bool) -> str:
    """What a step decided, in a word. An error is retried, or ends the step."""
    if isinstance(outcome, StepError):
        return "retried" if retried else "failed"
    if isinstance(outcome, Advance):
        return "advanced" if outcome.error is None else "failed"
    if isinstance(outcome, Snooze):
        return "snoozed"
    return "waits" if isinstance(outcome, AwaitSignal) else "done"
