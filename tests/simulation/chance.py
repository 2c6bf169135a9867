"""Every random decision of one simulated run comes from its seed. Faults are numbered: a run can be repeated with some."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

#: kind -> how likely it is at each opportunity, when the run uses it at all.
FAULTS: dict[str, float] = {
    # hints on their way from a publisher to a worker: per message
    "message_lost": 0.15,
    "message_duplicated": 0.15,
    "message_delayed": 0.15,
    "message_reordered": 0.3,
    # workers: per place where a process touches the outside
    "worker_crash": 0.006,
    "worker_pause": 0.004,
    "lease_expired": 0.03,
    # the control state: per event
    "redis_flushed": 0.002,
    "redis_tail_lost": 0.002,
    "stale_replica": 0.002,
    # SQL: per transaction
    "sql_error": 0.02,
    "serialization_failure": 0.05,
    # what nodes report: per callback
    "callback_lost": 0.3,
    "callback_early": 0.3,
    "callback_duplicate": 0.3,
    "callback_late": 0.3,
    "callback_contradictory": 0.3,
    # calls to provider, node agent and Redis whose effect happened: per call
    "answer_lost": 0.08,
    # processes: per start
    "clock_skew": 0.5,
    "newer_state": 0.3,
    # machines: per event
    "node_death": 0.0006,
    "link_cut": 0.003,
    # people: per task
    "cancel": 0.2,
    "rerun": 0.8,
}
_OF_PEOPLE = ("cancel", "rerun")


@dataclass(frozen=True)
class Fault:
    """A fault that was injected: its number in the run, its kind."""

    number: int
    kind: str


class Chance:
    """Decisions of one run. ``only``: of the numbered faults, inject these alone (to shorten a failing run).

    Each run uses about half of the kinds, some of them heavily: all faults at once hide each other.
    """

    def __init__(self, seed: int, only: frozenset[int] | None = None) -> None:
        #: Which event comes next, how long things take.
        self.order = random.Random(f"order {seed}")
        self._faults = random.Random(f"faults {seed}")
        self._only = only
        self._intensity = {
            kind: self._faults.choice((0.5, 1.0, 1.0, 3.0)) if self._faults.random() < 0.5 else 0.0 for kind in FAULTS
        }
        self._number = 0
        #: Whether faults happen now. What people do depends on ``peace`` alone, which never ends.
        self.active = True
        self.peace = False
        self.injected: list[Fault] = []
        self.counts: Counter[str] = Counter()

    def uses(self, *kinds: str) -> bool:
        """Whether any of these may still happen in this run."""
        return self.active and any(self._intensity[kind] for kind in kinds)

    def fault(self, kind: str) -> bool:
        """Whether a fault of this kind happens here."""
        if not self._intensity[kind] or not (self.active or (kind in _OF_PEOPLE and not self.peace)):
            return False
        if self._faults.random() >= FAULTS[kind] * self._intensity[kind]:
            return False
        self._number += 1
        if self._only is not None and self._number not in self._only:
            return False
        self.injected.append(Fault(self._number, kind))
        self.counts[kind] += 1
        return True

    def between(self, low: float, high: float) -> float:
        """A duration."""
        return self.order.uniform(low, high)

    def often(self, probability: float) -> bool:
        """A decision that is no fault."""
        return self.order.random() < probability
