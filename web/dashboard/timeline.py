"""The history of one run as bars: which step from when to when, its attempts, and what came meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from web.dashboard.words import epoch

#: The width of the drawing, in units of its own.
WIDTH = 1000
#: A run may come back to a step often; the newest stays are drawn.
BARS_MAX = 60
_BAR_MIN = 4.0
#: The code of the error with which a cancel leads from a step to cleanup, where it carries one.
_CANCELLED = "cancelled"
_MARKS = {"signal_recorded": "signal", "cancel_requested": "cancel", "late_result": "late"}


@dataclass
class Mark:
    """Something that happened during a stay. ``kind``: attempt, signal, cancel or late."""

    kind: str
    at: float
    says: str
    x: float = 0.0


@dataclass
class Bar:
    """A stay in a step. ``state``: done, failed, cancelled or now."""

    step: str
    began: float
    ended: float
    state: str
    marks: list[Mark] = field(default_factory=list)
    error: str | None = None
    x: float = 0.0
    width: float = _BAR_MIN

    @property
    def seconds(self) -> float:
        """How long it took, or takes so far."""
        return max(0.0, self.ended - self.began)

    @property
    def attempts(self) -> list[Mark]:
        """Its failed attempts."""
        return [mark for mark in self.marks if mark.kind == "attempt"]


@dataclass(frozen=True)
class Timeline:
    """The bars of a run in order, and how many of the oldest were left out."""

    bars: tuple[Bar, ...]
    total_s: float
    left_out: int
    #: Each step that was entered, and how its last stay went; also of those that were left out.
    states: Mapping[str, str]

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of marks that are in the bars."""
        return frozenset(mark.kind for bar in self.bars for mark in bar.marks)


def timeline(
    events: Sequence[Mapping[str, Any]], run: Mapping[str, Any], now: float, since: str | None = None
) -> Timeline:
    """The bars of ``run``, from the events of its task, of which the oldest may be missing. ``since``: when the step was
    entered in which it is now."""
    began = epoch(run["created_at"])
    bars = _bars([event for event in events if event["run_id"] == run["id"]], run, began, now)
    if since is not None and bars and bars[-1].state == "now":
        bars[-1].began = max(bars[-1].began, min(epoch(since), bars[-1].ended))
    end = max([began + 0.001, *(bar.ended for bar in bars)])
    shown = bars[-BARS_MAX:]
    first = shown[0].began if len(bars) > BARS_MAX else began
    scale = WIDTH / (end - first)
    for bar in shown:
        bar.x = round(min((bar.began - first) * scale, WIDTH - _BAR_MIN), 1)
        bar.width = round(min(max(bar.seconds * scale, _BAR_MIN), WIDTH - bar.x), 1)
        for mark in bar.marks:
            mark.x = round(min(max((mark.at - first) * scale, 2.0), WIDTH - 2.0), 1)
    states = {bar.step: bar.state for bar in bars}
    return Timeline(tuple(shown), end - began, len(bars) - len(shown), states)


def _bars(events: Sequence[Mapping[str, Any]], run: Mapping[str, Any], began: float, now: float) -> list[Bar]:
    bars: list[Bar] = []
    marks: list[Mark] = []
    step: str | None = None
    for event in events:
        at, data = epoch(event["at"]), event["data"]
        if event["kind"] in ("step_entered", "run_finished"):
            error, code = ((data.get("error") or {}).get(name) for name in ("message", "code"))
            # What led to cleanup is the error of the step that was left, not of cleanup.
            state = "done"
            if event["kind"] == "step_entered" and (error or any(mark.kind == "cancel" for mark in marks)):
                state = "cancelled" if code in (None, _CANCELLED) else "failed"
            # Times are rounded, lengths are not: together they may begin before the run did, or the bar before ended.
            bars.append(Bar(data["from"], max(began, at - data["duration_s"]), at, state, marks, error))
            marks, began = [], at
            step = event["step"] if event["kind"] == "step_entered" else None
        elif (mark := _mark(event, at)) is not None:
            marks.append(mark)
    if run["finished_at"] is None:
        bars.append(Bar(step or run["step"], began, max(began, now), "now", marks))
    return bars


def _mark(event: Mapping[str, Any], at: float) -> Mark | None:
    data = event["data"]
    if event["kind"] == "step_failed":
        again = data.get("retry_in_s")
        then = "" if again is None else f"; again in {again:.1f} s"
        return Mark("attempt", at, f"attempt {data.get('attempt')} failed: {data.get('message')}{then}")
    kind = _MARKS.get(event["kind"])
    if kind is None:
        return None
    if kind == "cancel":
        reason = data.get("reason")
        return Mark(kind, at, f"cancel requested by {event['actor']}" + (f": {reason}" if reason else ""))
    return Mark(kind, at, "a late result came" if kind == "late" else f"signal {data.get('name') or ''} came".strip())
