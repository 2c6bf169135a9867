"""Backoff with full jitter."""

from __future__ import annotations

import random


def backoff_s(attempt: int, *, base_s: float, max_s: float, rng: random.Random) -> float:
    """Seconds to wait after failed attempt number ``attempt`` (from 1): uniform between 0 and the doubled base.

    Full jitter: a thousand runs that failed together do not come back together.
    """
    ceiling = min(max_s, base_s * 2 ** min(attempt - 1, 30))
    return rng.uniform(0, ceiling)
