"""Ringing: publishing the hint that an alarm is due, and the pump that makes up for every hint that got lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

import redis
import structlog

from taskflow.engine.control import Alarm, Control, Pumped
from taskflow.ids import RunId

log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """Carries hints to workers. Losing, repeating or delaying one costs time, never a run."""

    def publish(self, alarm: Alarm) -> None:
        """Send one hint; may raise anything."""

    def backlog(self) -> int:
        """Hints that wait in the queue."""


class Ringer:
    """Publishes alarms; a broker that is away is no reason to fail, the index rings again."""

    def __init__(self, control: Control, publisher: Publisher) -> None:
        self._control = control
        self._publisher = publisher

    def publish(self, alarms: Iterable[Alarm]) -> int:
        """Publish ``alarms``; how many were sent."""
        sent = 0
        for alarm in alarms:
            try:
                self._publisher.publish(alarm)
            except Exception as error:  # whatever the transport raises
                log.warning("alarm_not_published", run_id=alarm.run_id, error=repr(error))
                break
            sent += 1
        return sent

    def backlog(self) -> int:
        """Hints that wait in the queue. Raises whatever the transport raises when the broker is away."""
        return self._publisher.backlog()

    def ring(self, run_ids: Iterable[RunId], *, due_too: bool = True) -> None:
        """Pull the alarms of these runs to now. With Redis away it is the rescue that finds what was recorded.

        ``due_too=False`` leaves those alone that are due already: in a backlog a hint more would only lengthen it.
        """
        for run_id in run_ids:
            try:
                alarm = self._control.signal(run_id, due_too=due_too)
            except redis.RedisError as error:
                log.warning("ring_failed", run_id=run_id, error=repr(error))
                return
            if alarm is not None:
                self.publish([alarm])


class Pump:
    """Runs in every worker process: rings what is due in the index and has not fired. No single pump is needed.

    ``on_tick`` is told what each shard answered, so that an emptied store is seen within one tick.
    """

    def __init__(
        self,
        control: Control,
        ringer: Ringer,
        publisher: Publisher,
        *,
        interval_s: float,
        batch: int,
        backlog_max: int,
        on_tick: Callable[[list[Pumped]], None],
    ) -> None:
        self._control = control
        self._ringer = ringer
        self._publisher = publisher
        self._interval_s = interval_s
        self._batch = batch
        self._backlog_max = backlog_max
        self._on_tick = on_tick
        self._stop = threading.Event()
        self._failing = False
        self._backlog_known = True

    def tick(self) -> int:
        """One look at the index; how many alarms were rung.

        While the queue is long nothing is claimed: a backlog must not multiply itself. An emptied broker is an empty
        queue and is refilled at once.
        """
        try:
            room = max(0, self._backlog_max - self._publisher.backlog())
            self._backlog_known = True
        except Exception as error:  # a broker that is away can't be rung, but the control state is still watched
            if self._backlog_known:
                log.warning("backlog_unknown", error=repr(error))
            self._backlog_known = False
            room = 0
        answers = self._control.pump(min(self._batch, room))
        rung = self._ringer.publish(alarm for answer in answers for alarm in answer.alarms)
        self._on_tick(answers)
        return rung

    def run_forever(self) -> None:
        """Tick until ``stop``. An error (Redis away) is logged once and the next tick tries again."""
        while not self._stop.wait(self._interval_s):
            try:
                self.tick()
                if self._failing:
                    log.info("pump_recovered")
                self._failing = False
            except Exception as error:  # the thread must outlive every fault of a store
                if not self._failing:
                    log.warning("pump_failed", error=repr(error))
                self._failing = True

    def stop(self) -> None:
        """End ``run_forever`` soon."""
        self._stop.set()
