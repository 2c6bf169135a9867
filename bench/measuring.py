"""Rounds in which all subjects take their turn, each round beginning with another one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.report import Measured
from bench.subjects import OURS, Missing, Subject, ready, versions_of

Figures = Mapping[str, float | None]


def lateness(name: str, seconds: Sequence[float]) -> dict[str, float | None]:
    """``<name>_p50_ms`` and ``<name>_p99_ms`` of times in seconds."""
    ordered = sorted(seconds)
    return {f"{name}_p{part}_ms": round(ordered[(len(ordered) - 1) * part // 100] * 1000, 2) for part in (50, 99)}


def interleaved(
    workload: str,
    rounds: int,
    peers: Sequence[str],
    of: Callable[[Subject], Figures],
    settings: Mapping[str, Any],
    *,
    ours: Sequence[str] = OURS,
) -> Measured:
    """Measure ``rounds`` times what ``of`` asks a fresh subject for; progress goes to standard error.

    A peer that is missing is said to be, and left out.
    """
    found = Measured(workload, dict(settings))

    def case(name: str) -> Callable[[], Figures]:
        def figures() -> Figures:
            with ready(name)() as subject:
                return of(subject)

        return figures

    measure(found, rounds, {name: case(name) for name in (*ours, *peers)})
    found.versions = {name: versions_of(name) for name in found.rounds[0]}
    return found


def measure(found: Measured, rounds: int, cases: Mapping[str, Callable[[], Figures]]) -> None:
    """Add ``rounds`` rounds of all ``cases`` to ``found``, each round beginning with another one.

    A case that raises ``Missing`` is said to be missing, and left out.
    """
    names = list(cases)
    for number in range(rounds):
        figures: dict[str, Figures] = {}
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in found.missing:
                continue
            try:
                figures[name] = cases[name]()
            except Missing as missing:
                found.missing[name] = str(missing)
            said = found.missing.get(name) or "  ".join(f"{key} {value}" for key, value in figures[name].items())
            print(f"round {number + 1}: {name:<18}{said}", file=sys.stderr, flush=True)
        found.rounds.append({name: figures[name] for name in names if name in figures})
