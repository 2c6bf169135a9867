"""How often one token may ask, and one address sign in.

Counted in this process: what protects the stores must not itself need one of them.
"""

from __future__ import annotations

import hashlib
import threading
import time

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from taskflow.errors import TooMany

_WINDOW_S = 10


class _Limit:
    """So many of a kind from each key in a window of time.

    A fixed window: the time until it ends is what ``Retry-After`` promises, and a key costs one number of memory.
    """

    def __init__(self, item: RateLimitItem | None) -> None:
        self._item = item
        self._mutex = threading.Lock()
        self._limiter: FixedWindowRateLimiter | None = None

    def wait_s(self, said: str) -> float | None:
        """Count one, and None; when there were too many, how long to wait in seconds, and nothing is counted."""
        if self._item is None:
            return None
        limiter, key = self._made(), hashlib.sha256(said.encode()).hexdigest()
        if limiter.hit(self._item, key):
            return None
        return max(1.0, limiter.get_window_stats(self._item, key).reset_time - time.time())

    def _made(self) -> FixedWindowRateLimiter:
        with self._mutex:  # at the first use, so after the server forked: it has a thread of its own
            if self._limiter is None:
                self._limiter = FixedWindowRateLimiter(MemoryStorage())
            return self._limiter


class RequestLimit:
    """At most ``per_s`` requests a second from each token, as a mean of ten seconds, so that short bursts pass."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._limit = _Limit(RateLimitItemPerSecond(max(1, round(per_s * _WINDOW_S)), _WINDOW_S) if per_s else None)

    def count(self, token: str) -> None:
        """Count one request of ``token``. Raises ``TooMany``; a refused request is not counted."""
        wait_s = self._limit.wait_s(token)
        if wait_s is not None:
            raise TooMany(
                f"more than {self._per_s:g} requests a second with this token", code="rate_limited",
                retry_after_s=wait_s, detail={"limit_per_s": self._per_s},
                advice="ask less often; the setting is TASKFLOW_TOKEN_REQUEST_RATE",
            )  # fmt: skip


class SignInLimit:
    """At most ``per_min`` sign-ins a minute from each address, those that fail included."""

    def __init__(self, per_min: float) -> None:
        self._limit = _Limit(RateLimitItemPerMinute(max(1, round(per_min))) if per_min else None)

    def count(self, address: str) -> None:
        """Count one sign-in from ``address``. Raises ``TooMany``."""
        wait_s = self._limit.wait_s(address)
        if wait_s is not None:
            raise TooMany("Too many sign-ins from here. Try again in a minute.", retry_after_s=wait_s)
