"""Half an hour of everything at once: what grows, and whether lateness does.

Tasks begin, alarms are set and parked tasks are signalled at a fixed rate; each minute the memory of the worker, the size
of Redis and of the database are looked at, and the lateness of the minute's alarms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved, lateness
from bench.peers.steps import STEPS
from bench.report import Measured
from bench.subjects import Subject, wait_looks

RATE = 5.0
MINUTES = 30
_AHEAD_S = 3.0
_MINUTE_S = 60.0


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Lateness of the first and the last minutes in milliseconds, and bytes that a task, alarm or signal leaves behind."""
    return interleaved("soak", rounds, (), soak, {"each_per_s": RATE, "minutes": MINUTES, "steps": STEPS})


def soak(subject: Subject) -> Figures:
    """One subject's figures."""
    minute = round(RATE * _MINUTE_S)
    _minute(subject, 0, minute)  # everything has been used once
    before, late = subject.footprint(), []
    for number in range(1, MINUTES + 1):
        late.append(_minute(subject, number, minute))
        said = "  ".join(f"{store} {size}" for store, size in subject.footprint().items())
        print(f"minute {number}: {lateness('late', late[-1])}  {said}", file=sys.stderr, flush=True)
    after, made = subject.footprint(), 3 * minute * MINUTES
    part = max(1, MINUTES // 5)
    first = [one for some in late[:part] for one in some]
    last = [one for some in late[-part:] for one in some]
    grown = {f"bytes_{store}_per_job": round((after[store] - before[store]) / made, 1) for store in after}
    return lateness("first", first) | lateness("last", last) | grown


def _minute(subject: Subject, number: int, jobs: int) -> list[float]:
    """A minute's work; how late its alarms came, in seconds."""
    subject.park([f"signal-{number}-{n}" for n in range(jobs)])
    began, due = time.time(), {}
    for n in range(jobs):
        time.sleep(max(0.0, began + n / RATE - time.time()))  # an even rate is what is measured
        subject.start([f"task-{number}-{n}"])
        due[f"alarm-{number}-{n}"] = time.time() + _AHEAD_S
        subject.alarm({f"alarm-{number}-{n}": due[f"alarm-{number}-{n}"]})
        subject.signal(f"signal-{number}-{n}")
    return [look.at - due[look.job] for look in wait_looks(subject, jobs * (STEPS + 2)) if look.job in due]
