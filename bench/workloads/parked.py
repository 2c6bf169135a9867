"""Tasks that wait for a far alarm: how fast they get there, and what each takes up until then."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.measuring import Figures, interleaved
from bench.report import Measured
from bench.subjects import Subject
from tests.support.waiting import wait_until

PARKED = 5000
_WARM = 200
_FAR_S = 4 * 3600.0


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Bytes of each, and how many park in a second."""
    return interleaved("parked", rounds, peers, parked, {"parked": PARKED, "ahead_s": _FAR_S})


def parked(subject: Subject) -> Figures:
    """One subject's figures."""
    _park(subject, "warm", _WARM, _WARM)
    before, began = subject.footprint(), time.time()
    _park(subject, "far", PARKED, _WARM + PARKED)
    took_s = time.time() - began
    after = subject.footprint()
    return {"parked_per_s": round(PARKED / took_s, 1)} | {
        f"bytes_{store}_per_run": round((after[store] - before[store]) / PARKED, 1) for store in after
    }


def _park(subject: Subject, name: str, number: int, held: int) -> None:
    subject.alarm(dict.fromkeys((f"{name}-{n}" for n in range(number)), time.time() + _FAR_S))
    wait_until(lambda: subject.holds() >= held, f"{held} are parked", timeout_s=300)
