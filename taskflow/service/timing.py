"""Redis time for code outside a turn."""

from __future__ import annotations

import redis

from taskflow.clock import Clock
from taskflow.engine.control import Control

_ASK_EVERY_S = 30.0


class StoreClock:
    """Redis time, asked for rarely: the host clock plus an offset that is measured anew now and then.

    While Redis is away the last offset is used: a callback must be recordable then.
    """

    def __init__(self, control: Control, clock: Clock) -> None:
        self._control = control
        self._clock = clock
        self._offset_s = 0.0
        self._asked = float("-inf")

    def now(self) -> float:
        """Seconds since the epoch, Redis time."""
        monotonic = self._clock.monotonic()
        if monotonic - self._asked >= _ASK_EVERY_S:
            self._asked = monotonic
            try:
                self._offset_s = self._control.now() - self._clock.now()
            except redis.RedisError:
                pass  # keeps the last offset
        return self._clock.now() + self._offset_s
