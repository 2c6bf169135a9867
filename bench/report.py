"""What a measurement answers: medians by subject and figure, and what is said where nothing came in time."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.subjects import OURS, OURS_BY_STEP

_OURS = OURS + OURS_BY_STEP
#: One round: subject -> figure -> value; None when it did not come while it was watched.
Round = Mapping[str, Mapping[str, float | None]]


@dataclass
class Measured:
    """All rounds of a workload."""

    workload: str
    settings: dict[str, Any]
    watched_s: float = 300.0
    rounds: list[Round] = field(default_factory=list)
    #: peer -> why it was not measured
    missing: dict[str, str] = field(default_factory=dict)
    #: subject -> package -> version
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As printed with ``--json``. A median over rounds in which nothing came is null; ``said`` has it in words."""
        medians = {subject: self._medians(subject) for subject in self.rounds[0]}
        return {
            "workload": self.workload,
            "rounds": [{subject: dict(figures) for subject, figures in one.items()} for one in self.rounds],
            "median": medians,
            "spread": {subject: self._spread(subject) for subject in medians},
            "ratio": self._all_ratios(medians),
            "said": {
                subject: {name: f">{self.watched_s:g}" for name, value in figures.items() if value is None}
                for subject, figures in medians.items()
            },
            "missing": self.missing,
            "settings": self.settings,
            "versions": self.versions,
            "machine": {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        }

    def _spread(self, subject: str) -> dict[str, list[float | None]]:
        values = {name: [one[subject][name] for one in self.rounds] for name in self.rounds[0][subject]}
        return {name: [lowest(found), highest(found)] for name, found in values.items()}

    def _all_ratios(self, medians: Round) -> dict[str, dict[str, dict[str, float | None]]]:
        if not any(name in _OURS for name in medians):
            return {}  # nobody here is a peer: these are cases of ours
        return {name: self._ratios(medians, name) for name in medians if name not in _OURS}

    @staticmethod
    def _ratios(medians: Round, peer: str) -> dict[str, dict[str, float | None]]:
        """Ours divided by the peer's, for figures that both have; None where either never came."""
        return {
            ours: {
                name: round(value / theirs, 3) if value is not None and theirs else None
                for name, value in medians[ours].items()
                if (theirs := medians[peer].get(name, 0.0)) != 0.0
            }
            for ours in _OURS
            if ours in medians
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
            cells = [self._cell([one[subject].get(name, math.nan) for one in self.rounds]) for subject in subjects]
            lines.append(f"{name:<28}" + "".join(f"{cell:>28}" for cell in cells))
        for peer, ratios in found["ratio"].items():
            for ours, figures in ratios.items():
                said = "  ".join(f"{name} {'-' if value is None else value}" for name, value in figures.items())
                lines.append(f"{ours} / {peer}: {said}")
        lines += [f"{peer} is missing: {why}" for peer, why in self.missing.items()]
        return "\n".join(lines)

    def _cell(self, values: Sequence[float | None]) -> str:
        if any(value is not None and math.isnan(value) for value in values):
            return "-"
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
