"""How often one token may ask. Counted in this process: what protects the stores must not itself need one of them."""

from __future__ import annotations

import hashlib
import threading
import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from taskflow.errors import TooMany

_WINDOW_S = 10


class RequestLimit:
    """At most ``per_s`` requests a second from each token, as a mean of ten seconds, so that short bursts pass.

    A fixed window: the time until it ends is what ``Retry-After`` promises, and a token costs one number of memory.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._item = RateLimitItemPerSecond(max(1, round(per_s * _WINDOW_S)), _WINDOW_S)
        self._mutex = threading.Lock()
        self._limiter: FixedWindowRateLimiter | None = None

    def count(self, token: str) -> None:
        """Count one request of ``token``. Raises ``TooMany``; a refused request is not counted."""
        if not self._per_s:
            return
        limiter, key = self._made(), hashlib.sha256(token.encode()).hexdigest()
        if limiter.hit(self._item, key):
            return
        wait_s = limiter.get_window_stats(self._item, key).reset_time - time.time()
        raise TooMany(
            f"more than {self._per_s:g} requests a second with this token", code="rate_limited",
            retry_after_s=max(1.0, wait_s), detail={"limit_per_s": self._per_s},
            advice="ask less often; the setting is TASKFLOW_TOKEN_REQUEST_RATE",
        )  # fmt: skip

    def _made(self) -> FixedWindowRateLimiter:
        with self._mutex:  # at the first use, so after the server forked: it has a thread of its own
            if self._limiter is None:
                self._limiter = FixedWindowRateLimiter(MemoryStorage())
            return self._limiter
