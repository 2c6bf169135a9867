"""The Celery app and the publisher of alarms: what every process that rings needs, without the tasks themselves."""

from __future__ import annotations

import threading

from amqp.exceptions import NotFound
from celery import Celery

from taskflow.celery_settings import ALARM_QUEUE, broker_settings, celery_settings
from taskflow.engine.control import Alarm
from taskflow.settings import Settings

ALARM_TASK = "taskflow.alarm"


def make_celery(settings: Settings) -> Celery:
    """The Celery app of this installation. It connects when first used, so it may be made before a fork."""
    app = Celery("taskflow", set_as_current=False)
    app.config_from_object(celery_settings(settings))
    return app


class CeleryPublisher:
    """Publishes alarms as Celery messages with a countdown. Makes its app at the first use unless given one.

    Raises ``UsageError`` for a URL that can't be a broker's: later nobody would hear it.
    """

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        broker_settings(settings)
        self._settings = settings
        self._app = app
        self._mutex = threading.Lock()

    def publish(self, alarm: Alarm) -> None:
        """Send one hint. Not retried: the alarm index is what retries."""
        self._celery().send_task(
            ALARM_TASK,
            (alarm.run_id, alarm.generation),
            countdown=alarm.countdown_s if alarm.countdown_s > 0 else None,
            queue=ALARM_QUEUE,
            shadow=alarm.name,
            retry=False,
            ignore_result=True,
        )

    def backlog(self) -> int:
        """Hints that wait in the alarm queue."""
        with self._celery().pool.acquire(block=True) as connection:
            if connection.transport.driver_type != "amqp":
                return int(connection.default_channel._size(ALARM_QUEUE))
            # A pooled connection that broke is not opened again by itself.
            connection.ensure_connection(max_retries=0)
            # A channel of its own: where the queue is not there yet, the broker closes the channel that asked.
            with connection.channel() as channel:
                try:
                    return int(channel.queue_declare(ALARM_QUEUE, passive=True).message_count)
                except NotFound:
                    return 0

    def _celery(self) -> Celery:
        with self._mutex:
            if self._app is None:
                self._app = make_celery(self._settings)
            return self._app
