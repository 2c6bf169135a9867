"""What the engine asks of SQL, as a port. ``taskflow.db.runs`` answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskflow.engine.outcomes import Effect
from taskflow.ids import RunId


class Superseded(Exception):
    """The run is no longer this turn's: its lease is over, or somebody else wrote the row since. Nothing was changed."""


class CancelRequested(Exception):
    """A guarded step was not entered because a cancel is requested. Nothing was changed."""


class SignalArrived(Exception):
    """A decision was not applied: a signal came that its turn had not read and that counts. Nothing was changed."""


@dataclass(frozen=True)
class RunRow:
    """A run as SQL has it. Times in epoch seconds (Redis time for everything a step compares)."""

    id: RunId
    pipeline: str
    version: int
    subject_kind: str
    subject_id: str
    number: int
    owner_id: str
    step: str
    rev: int
    step_entered_at: float
    created_at: float
    deadline_at: float | None = None
    awaiting: str | None = None
    wake_at: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    cancel_requested_at: float | None = None
    cancel_reason: str | None = None
    finished_at: float | None = None

    @property
    def subject(self) -> str:
        """What it is a run of, for people: ``<kind>:<id>``."""
        return f"{self.subject_kind}:{self.subject_id}"


@dataclass(frozen=True)
class Signal:
    """A recorded signal that no step has consumed yet."""

    id: int
    name: str
    subject: str
    payload: Mapping[str, Any]
    recorded_at: float


@dataclass(frozen=True)
class Change:
    """One apply: what becomes of the run row, with which effects, signals consumed and event.

    ``seen_signal``: the newest signal that this turn read. A change with an ``error`` is not applied when a newer one is
    recorded: what was awaited may have come while the step gave it up. None: not checked.
    """

    step: str
    now: float
    entered: bool
    deadline_at: float | None
    awaiting: str | None = None
    wake_at: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    finished: bool = False
    result: Mapping[str, Any] | None = None
    guarded: bool = False
    effects: tuple[Effect, ...] = ()
    consumed: Sequence[int] = ()
    reason: str | None = None
    seen_signal: int | None = None


@dataclass(frozen=True)
class Failure:
    """A failed attempt, for the errors table and the history."""

    step: str
    attempt: int
    error: Mapping[str, Any]
    at: float
    retry_in_s: float | None


class Store(Protocol):
    """The SQL side of a turn."""

    def load(self, run_id: RunId) -> tuple[RunRow, tuple[Signal, ...]] | None:
        """The row and its unconsumed signals, oldest first."""

    def apply(self, run: RunRow, change: Change) -> tuple[RunRow, tuple[RunId, ...]]:
        """One transaction guarded by ``run.rev``: the new row, and the runs to ring after it.

        Raises ``Superseded``, ``CancelRequested``, ``SignalArrived`` or ``outcomes.Refused``; then nothing was written.
        """

    def record_failure(self, run: RunRow, failure: Failure) -> None:
        """Append a failed attempt, unless the run moved on meanwhile."""

    def open_runs(self, after: str, limit: int) -> list[RunRow]:
        """A page of unfinished runs in id order."""

    def runs_with_awaited_signal(self, limit: int) -> list[RunId]:
        """Open runs whose awaited signal is recorded, or whose cancel is requested and not yet acted on, of pipelines and
        versions that workers here take up."""

    def finished_or_unknown(self, run_ids: Sequence[RunId]) -> list[RunId]:
        """Those of ``run_ids`` that SQL has finished or never had."""

    def incarnations(self) -> Mapping[int, str]:
        """The reconciled ``<incarnation>@<server run id>`` of each shard."""

    def write_incarnation(self, shard: int, value: str, at: float) -> None:
        """Say that this shard was reconciled under ``value``."""
