"""Which worker processes live: each says so in Redis now and then, and is forgotten when it does not.

One sorted set, however many there are: its members are the processes, their scores when each was seen last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskflow.engine.control import Control
from taskflow.engine.lease import process_name

#: How often a worker process says that it lives, in seconds, and after how many it is taken for gone.
SAYS_EVERY_S = 5.0
GONE_AFTER_S = 20.0
#: Of a set that nobody writes to any more.
_KEPT_S = 3600


class Workers:
    """See the module. All of it raises what Redis raises."""

    def __init__(self, control: Control, now: Callable[[], float]) -> None:
        self._client = control.client
        self._key = f"{control.prefix}:workers"
        self._now = now
        self._said = False

    def lives(self) -> None:
        """Say that this process is a worker that lives, and forget those that are long gone."""
        now = self._now()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zadd(self._key, {process_name(): now})
            pipe.zremrangebyscore(self._key, "-inf", now - _KEPT_S)
            pipe.expire(self._key, _KEPT_S)
            pipe.execute()
        self._said = True

    def goes(self) -> None:
        """Say that this process works no more, if it ever said that it lives."""
        if self._said:
            self._client.zrem(self._key, process_name())

    def seen(self) -> dict[str, float]:
        """Worker process (``<host>:<pid namespace>:<pid>``) -> seconds since it was seen last, of those that live."""
        now = self._now()
        found: Any = self._client.zrangebyscore(self._key, now - GONE_AFTER_S, "+inf", withscores=True)
        return {name.decode(): max(0.0, now - at) for name, at in found}
