"""A signal to a parked task, until its next step: one by one, then two hundred at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.report import Measured
from bench.subjects import Subject, wait_looks

ONE_BY_ONE = 300
AT_ONCE = 200
_PAUSE_S = 0.003


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Milliseconds from the call to the look."""
    return interleaved("signals", rounds, peers, signals, {"one_by_one": ONE_BY_ONE, "at_once": AT_ONCE})


def signals(subject: Subject) -> Figures:
    """One subject's figures."""
    subject.park([f"job-{number}" for number in range(ONE_BY_ONE + AT_ONCE)])
    alone = []
    for number in range(ONE_BY_ONE):
        time.sleep(_PAUSE_S)  # each finds the subject at rest
        sent = time.time()
        subject.signal(f"job-{number}")
        (look,) = wait_looks(subject, 1, poll_s=0.0005)
        alone.append(look.at - sent)
    sent_at: dict[str, float] = {}
    for number in range(ONE_BY_ONE, ONE_BY_ONE + AT_ONCE):
        sent_at[f"job-{number}"] = time.time()
        subject.signal(f"job-{number}")
    burst = [look.at - sent_at[look.job] for look in wait_looks(subject, AT_ONCE)]
    return lateness("signal", alone) | lateness("burst", burst)
