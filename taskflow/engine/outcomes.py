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


_NAME_MAX = 64


def _check_seconds(what: str, seconds: object) -> None:
    # Said where the step makes it: later nobody could tell which line it was.
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"{what}: {seconds!r} is no length of time in seconds")


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

    def __post_init__(self) -> None:
        _check_seconds("Snooze", self.seconds)


@dataclass(frozen=True)
class AwaitSignal:
    """Park until the signal ``name`` is there or the step's deadline passes; ``poll_s``: also look every so often.

    ``effects`` are written with it: what the step found out while it waits. They must not refuse.
    """

    name: str
    poll_s: float | None = None
    effects: tuple[Effect, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= _NAME_MAX:
            raise TypeError(f"AwaitSignal: {self.name!r} is no name of a signal: 1 to {_NAME_MAX} characters")
        if self.poll_s is not None:
            _check_seconds("AwaitSignal", self.poll_s)


@dataclass(frozen=True)
class Done:
    """The run is over. Its control state is deleted; ``result`` stays on the row."""

    result: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    error: Mapping[str, Any] | None = None


Outcome = Advance | Snooze | AwaitSignal | Done
