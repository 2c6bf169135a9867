"""A thousand alarms due over twenty seconds, each set one to five seconds ahead: how late they come."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.report import Measured
from bench.subjects import Subject, wait_looks

ALARMS = 1000
OVER_S = 20.0
AHEAD_S = (1.0, 5.0)


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Lateness in milliseconds: half of them, all but ten, and the worst."""
    settings = {"alarms": ALARMS, "over_s": OVER_S, "ahead_s": list(AHEAD_S)}
    return interleaved("alarms", rounds, peers, alarms, settings)


def alarms(subject: Subject) -> Figures:
    """One subject's figures."""
    chance, began = random.Random(ALARMS), time.time()  # noqa: S311  the same times in every round
    due: dict[str, float] = {}
    for number in range(ALARMS):
        time.sleep(max(0.0, began + number * OVER_S / ALARMS - time.time()))  # an even rate is what is measured
        job, at = f"alarm-{number}", time.time() + chance.uniform(*AHEAD_S)
        subject.alarm({job: at})
        due[job] = at
    looks = wait_looks(subject, ALARMS)
    return lateness("late", [look.at - due[look.job] for look in looks]) | {
        "late_max_ms": round(max(look.at - due[look.job] for look in looks) * 1000, 2)
    }
