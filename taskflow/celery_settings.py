"""Every Celery setting, with its reason. The top-level ``celeryconfig.py`` re-exports them for people who look there;
the app reads this module, since a ``celeryconfig`` of a user's own would shadow ours.
"""

from __future__ import annotations

from typing import Any

from taskflow.settings import Settings

ALARM_QUEUE = "alarm"
SWEEP_QUEUE = "sweep"


def celery_settings(settings: Settings) -> dict[str, Any]:
    """The settings of the Celery app for this installation."""
    return {
        "broker_url": settings.redis_url,
        # A hint carries ids only; nothing else is ever unpickled or trusted.
        "task_serializer": "json",
        "accept_content": ["json"],
        # The result of a turn is in SQL. Storing one more in Redis costs a quarter of the throughput.
        "task_ignore_result": True,
        "result_backend": None,
        # Early acknowledgement: a lost hint is re-rung from the alarm index, a redelivered one would only be dropped.
        "task_acks_late": False,
        # With late acks off these change nothing; written down because switching one on would make poison tasks loop.
        "task_reject_on_worker_lost": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            # The emulation of acknowledgements costs three round trips a message and leaves messages in ``unacked``
            # after a crash. Without it the broker is at-most-once, which is all that a hint needs.
            "ack_emulation": False,
            # Only counts where the emulation is on; the same in every process that shares the broker.
            "visibility_timeout": 600,
            # A half-open connection is noticed: by default a worker waits on it for ever.
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "health_check_interval": 10,
            # Our queues and bindings beside other applications' on one Redis.
            "global_keyprefix": f"{settings.key_prefix}:celery:",
        },
        # Alarms and sweeps have queues of their own: a long sweep never stands before an alarm.
        "task_default_queue": ALARM_QUEUE,
        "task_routes": {"taskflow.sweep.*": {"queue": SWEEP_QUEUE}, "taskflow.alarm": {"queue": ALARM_QUEUE}},
        "task_create_missing_queues": True,
        # Nothing is fetched ahead, so nothing is stranded in a worker that dies or loses its broker.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # Countdowns are held in memory for the near window only; a limit would starve what stands behind them.
        "worker_eta_task_limit": None,
        # prefork: a hung step is ended with its process, which threads can't offer; steps are short and wait on I/O.
        "worker_pool": "prefork",
        "worker_concurrency": settings.worker_concurrency,
        # Celery forgets time limits when the connection drops: the runner enforces each step's own timeout.
        "task_time_limit": None,
        "task_soft_time_limit": None,
        # The broker may start later than we do, and go away for as long as it likes.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # SIGTERM lets running turns end; a longer one is taken over when its lease runs out.
        "worker_soft_shutdown_timeout": 5.0,
        "worker_enable_soft_shutdown_on_idle": False,
        # Ours are structured; Celery's would be a second format in one file.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
        "imports": ("taskflow.celery",),
    }


def beat_schedule(settings: Settings, queue: str = SWEEP_QUEUE) -> dict[str, Any]:
    """One entry per sweep, which ``taskflow.embedding`` adds to the application's schedule.

    ``expires``: sweeps that piled up while no worker ran are not all run afterwards.
    """
    return {
        name: {
            "task": f"taskflow.sweep.{name}",
            "schedule": interval_s,
            "options": {"queue": queue, "expires": max(1.0, interval_s)},
        }
        for name, interval_s in settings.sweep_intervals().items()
    }
