"""Tasks of seven empty steps: a thousand at once, then one at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved
from bench.peers.steps import STEPS
from bench.report import Measured
from bench.subjects import OURS, OURS_BY_STEP, Subject, wait_looks
from taskflow.settings import Settings

AT_ONCE = 1000
ONE_BY_ONE = 100
_WARM = 50
_SETTINGS = {"turn_max_steps": Settings().turn_max_steps, "tasks": AT_ONCE, "steps": STEPS, "alone": ONE_BY_ONE}


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Steps a second of ``AT_ONCE`` tasks, and how long a task takes that is alone; ours also with a turn a step."""
    return interleaved("chain", rounds, peers, chains, _SETTINGS, ours=OURS + OURS_BY_STEP)


def look(rounds: int, peers: Sequence[str]) -> Measured:
    """The same without a turn a step, which takes as long as the rest."""
    return interleaved("chain", rounds, peers, chains, _SETTINGS)


def chains(subject: Subject) -> Figures:
    """One subject's figures."""
    subject.start([f"warm-{n}" for n in range(_WARM)])
    wait_looks(subject, _WARM * STEPS)
    began = time.time()
    subject.start([f"all-{n}" for n in range(AT_ONCE)])
    submitted = time.time()
    ended = max(look.at for look in wait_looks(subject, AT_ONCE * STEPS))
    took = [_alone(subject, f"one-{n}") for n in range(ONE_BY_ONE)]
    return {
        "steps_per_s": round(AT_ONCE * STEPS / (ended - began), 1),
        "submit_s": round(submitted - began, 3),
        "task_p50_ms": round(statistics.median(took) * 1000, 2),
    }


def _alone(subject: Subject, job: str) -> float:
    sent = time.time()
    subject.start([job])
    return max(look.at for look in wait_looks(subject, STEPS, poll_s=0.0005)) - sent
