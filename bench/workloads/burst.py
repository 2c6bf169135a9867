"""A thousand alarms due at one instant: how late they come, and the last."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.report import Measured
from bench.subjects import Subject, wait_looks

ALARMS = 1000
AHEAD_S = 8.0


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Lateness in milliseconds: half of them, all but ten, and the last."""
    return interleaved("burst", rounds, peers, burst, {"alarms": ALARMS, "ahead_s": AHEAD_S})


def burst(subject: Subject) -> Figures:
    """One subject's figures."""
    at = time.time() + AHEAD_S
    subject.alarm({f"alarm-{number}": at for number in range(ALARMS)})
    set_s = time.time() - (at - AHEAD_S)
    late = [look.at - at for look in wait_looks(subject, ALARMS)]
    return lateness("late", late) | {"late_last_ms": round(max(late) * 1000, 2), "set_s": round(set_s, 3)}
