"""The Celery app and the publisher of alarms: what every process that rings needs, without the tasks themselves."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import celery
import kombu
from amqp.exceptions import NotFound
from celery import Celery
from kombu.exceptions import OperationalError

from taskflow.celery_settings import ALARM_QUEUE, SWEEP_QUEUE, broker_settings, celery_settings
from taskflow.engine.control import Alarm
from taskflow.errors import InfrastructureError, UsageError
from taskflow.pipelines.registry import named
from taskflow.settings import Settings

ALARM_TASK = "taskflow.alarm"
#: Of an application that taskflow was installed on: its queues of alarms and of sweeps.
_QUEUES = "taskflow_queues"


def make_celery(settings: Settings) -> Celery:
    """The Celery app of this installation. It connects when first used, so it may be made before a fork."""
    app = Celery("taskflow", set_as_current=False)
    app.config_from_object(celery_settings(settings))
    return app


def set_queues(app: Celery, alarms: str, sweeps: str) -> None:
    """Say from which queues the workers of ``app`` take alarms and sweeps."""
    setattr(app, _QUEUES, (alarms, sweeps))


def _queues(app: Celery) -> tuple[str, str]:
    found: tuple[str, str] = getattr(app, _QUEUES, (ALARM_QUEUE, SWEEP_QUEUE))
    return found


def is_installed(app: Celery) -> bool:
    """Whether taskflow was installed on ``app``."""
    return hasattr(app, _QUEUES)


def _application(name: str) -> Celery:
    """The application that the setting ``celery_app`` names. Raises ``UsageError``."""
    try:
        app = named(name)
    except Exception as error:  # whatever somebody else's module raises
        raise _no_application(name, f"{type(error).__name__}: {error}") from error
    if not isinstance(app, Celery) or not is_installed(app):
        raise _no_application(name, "is no Celery application that taskflow was installed on")
    return app


def _no_application(name: str, why: str) -> UsageError:
    return UsageError(
        f"TASKFLOW_CELERY_APP={name} can't be used: {why}", code="celery_app", fields={"TASKFLOW_CELERY_APP": why},
        advice="call taskflow.embedding.install(app) in that module",
    )  # fmt: skip


class Application:
    """What can be asked of a Celery application about how it carries alarms."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        #: Its settings, as they are in force.
        self.conf: Mapping[str, Any] = app.conf
        #: Of the libraries in this process.
        self.versions = {"Celery": celery.__version__, "kombu": kombu.__version__}

    @property
    def acknowledges_late(self) -> bool:
        """Whether a worker acknowledges an alarm after it: the task's own word, where it is on the application."""
        task = self._app.tasks.get(ALARM_TASK)
        return bool(self._app.conf.task_acks_late if task is None else task.acks_late)

    @property
    def transport(self) -> str:
        """What carries its messages: redis (Sentinel too), amqp, or another word of kombu's."""
        return str(self._app.connection_for_read().transport.driver_type)

    def redis_info(self) -> dict[str, Any] | None:
        """INFO of the Redis that is its broker, None where it is none. Raises ``InfrastructureError``, and Redis's."""
        if self.transport != "redis":
            return None
        try:
            with self._app.connection_for_read() as connection:
                connection.ensure_connection(max_retries=1)
                found: dict[str, Any] = connection.default_channel.client.info()
                return found
        except OperationalError as error:
            raise InfrastructureError(f"the broker does not answer: {error}", code="broker") from error


class CeleryPublisher:
    """Publishes alarms as Celery messages with a countdown, on ``app``, or on the one that the settings name.

    taskflow's own is made at the first use. Raises ``UsageError`` for a URL that can't be a broker's: later nobody would
    hear it.
    """

    def __init__(self, settings: Settings, app: Celery | None = None) -> None:
        broker_settings(settings)
        self._settings = settings
        self._app = _application(settings.celery_app) if app is None and settings.celery_app else app
        self._mutex = threading.Lock()

    def publish(self, alarm: Alarm) -> None:
        """Send one hint. Not retried: the alarm index is what retries.

        What Flower shows of it is for people: the step as its name, and as keywords what it is an alarm of. A worker is
        sent the run and the generation alone.
        """
        kind, _, subject_id = alarm.subject.partition(":")
        shown = {**({f"{kind}_id": subject_id} if kind else {}), "run_id": str(alarm.run_id), "step": alarm.name}
        app = self._celery()
        app.send_task(
            ALARM_TASK,
            (alarm.run_id, alarm.generation),
            countdown=alarm.countdown_s if alarm.countdown_s > 0 else None,
            queue=_queues(app)[0],
            serializer="json",
            shadow=alarm.name,
            kwargsrepr=repr(shown),
            retry=False,
            ignore_result=True,
        )

    def backlog(self) -> int:
        """Hints that wait in the alarm queue."""
        app = self._celery()
        return self._waiting(app, _queues(app)[0])

    def depths(self) -> dict[str, int]:
        """Messages that wait, by what their queue is for: ``alarm`` and ``sweep``. Raises what the transport raises."""
        app = self._celery()
        names = zip((ALARM_QUEUE, SWEEP_QUEUE), _queues(app), strict=True)
        return {purpose: self._waiting(app, queue) for purpose, queue in names}

    @staticmethod
    def _waiting(app: Celery, queue: str) -> int:
        with app.pool.acquire(block=True) as connection:
            if connection.transport.driver_type != "amqp":
                return int(connection.default_channel._size(queue))
            # A pooled connection that broke is not opened again by itself.
            connection.ensure_connection(max_retries=0)
            # A channel of its own: where the queue is not there yet, the broker closes the channel that asked.
            with connection.channel() as channel:
                try:
                    return int(channel.queue_declare(queue, passive=True).message_count)
                except NotFound:
                    return 0

    def application(self) -> Application:
        """By what alarms are published: the application given, the one named by ``celery_app``, or our own."""
        return Application(self._celery())

    def _celery(self) -> Celery:
        with self._mutex:
            if self._app is None:
                self._app = make_celery(self._settings)
            return self._app
