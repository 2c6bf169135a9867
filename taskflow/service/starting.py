"""What follows once a run is committed."""

from __future__ import annotations

import time

import redis
import structlog

from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Control
from taskflow.engine.meter import Meter
from taskflow.engine.store import RunRow

log = structlog.get_logger(__name__)


class Starter:
    """Gives new runs their control state and rings them, and tells the meter. With Redis away the rescue does it later."""

    def __init__(self, control: Control, ringer: Ringer, meter: Meter) -> None:
        self._control = control
        self._ringer = ringer
        self._meter = meter

    def start(self, run: RunRow, began: float) -> None:
        """Start a committed run; ``began`` (``time.perf_counter``) is when its making did."""
        self._meter.run_submitted(run, time.perf_counter() - began)
        try:
            self._ringer.publish(self._control.ensure([run]))
        except redis.RedisError as error:
            log.warning("run_not_started_yet", run_id=run.id, error=repr(error))
