"""Everything at once at a fixed rate: tasks begin, alarms are set and come due, parked tasks are signalled."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.peers.steps import STEPS
from bench.report import Measured
from bench.subjects import Subject, wait_looks
from tests.support.seen import Look

RATE = 15.0
OVER_S = 20.0
AHEAD_S = (1.0, 5.0)
_TICKS = int(RATE * OVER_S)


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Milliseconds: a task of empty steps, an alarm's lateness, a signal until its look."""
    settings = {"each_per_s": RATE, "over_s": OVER_S, "ahead_s": list(AHEAD_S), "steps": STEPS}
    return interleaved("mixed", rounds, peers, mixed, settings)


def mixed(subject: Subject) -> Figures:
    """One subject's figures."""
    subject.park([f"signal-{number}" for number in range(_TICKS)])
    chance, began = random.Random(_TICKS), time.time()  # noqa: S311  the same times in every round
    since: dict[str, float] = {}
    for number in range(_TICKS):
        time.sleep(max(0.0, began + number / RATE - time.time()))  # an even rate is what is measured
        since[f"task-{number}"] = time.time()
        subject.start([f"task-{number}"])
        since[f"alarm-{number}"] = time.time() + chance.uniform(*AHEAD_S)
        subject.alarm({f"alarm-{number}": since[f"alarm-{number}"]})
        since[f"signal-{number}"] = time.time()
        subject.signal(f"signal-{number}")
    sent_s = time.time() - began
    looks = wait_looks(subject, _TICKS * (STEPS + 2))
    kinds = {name: lateness(name, _took(looks, since, name)) for name in ("task", "alarm", "signal")}
    return kinds["task"] | kinds["alarm"] | kinds["signal"] | {"rate_per_s": round(3 * _TICKS / sent_s, 1)}


def _took(looks: Sequence[Look], since: dict[str, float], kind: str) -> list[float]:
    last: dict[str, float] = {}
    for look in looks:
        if look.job.startswith(kind):
            last[look.job] = max(look.at, last.get(look.job, 0.0))
    return [at - since[job] for job, at in last.items()]
