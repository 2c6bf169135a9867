"""What a step may decide. A step returns one of these and writes nothing; the runner makes it true."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow.ids import RunId

#: A domain write that becomes part of the apply transaction. It is given the open transaction, and may name other runs
#: to be rung after the commit (each has, in the same transaction, a row that makes the ring repeatable). It raises
#: ``Refused`` when its guard does not hold; then the whole transaction is rolled back.
Effect = Callable[[Any], "Iterable[RunId] | None"]


class Refused(Exception):
    """The guard of an effect did not hold (the last slot is taken, the row is in another state)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Advance:
    """Go to ``step``, adding ``results`` to the run's. ``otherwise`` is taken instead when an effect is refused."""

    step: str
    results: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    otherwise: Outcome | None = None
    reason: str | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Snooze:
    """Look again after ``seconds``. Writes nothing to SQL; the step's deadline keeps running."""

    seconds: float


@dataclass(frozen=True)
class AwaitSignal:
    """Park until the signal ``name`` is there or the step's deadline passes; ``poll_s``: also look every so often.

    ``effects`` are written with it: what the step found out while it waits. They must not refuse.
    """

    name: str
    poll_s: float | None = None
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Done:
    """The run is over. Its control state is deleted; ``result`` stays on the row."""

    result: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    error: Mapping[str, Any] | None = None


Outcome = Advance | Snooze | AwaitSignal | Done
