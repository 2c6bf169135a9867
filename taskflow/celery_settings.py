"""Every Celery setting, with its reason. The top-level ``celeryconfig.py`` re-exports them for people who look there;
the app reads this module, since a ``celeryconfig`` of a user's own would shadow ours.
"""

from __future__ import annotations

from typing import Any

from taskflow.errors import UsageError
from taskflow.redis_url import check_readable, parse_sentinel
from taskflow.settings import ENV_PREFIX, Settings

ALARM_QUEUE = "alarm"
SWEEP_QUEUE = "sweep"
BROKERS = "amqp://, amqps://, redis://, rediss://, sentinel://"


def celery_settings(settings: Settings) -> dict[str, Any]:
    """The settings of the Celery app for this installation."""
    return {
        **broker_settings(settings),
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
        # Alarms and sweeps have queues of their own: a long sweep never stands before an alarm.
        "task_default_queue": ALARM_QUEUE,
        "task_routes": {"taskflow.sweep.*": {"queue": SWEEP_QUEUE}, "taskflow.alarm": {"queue": ALARM_QUEUE}},
        "task_create_missing_queues": True,
        # Nothing is fetched ahead, so nothing is stranded in a worker that dies or loses its broker.
        "worker_prefetch_multiplier": 1,
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


def broker_settings(settings: Settings) -> dict[str, Any]:
    """Where the broker is and what its transport is told. Raises ``UsageError`` for a URL that can't be one."""
    variable = f"{ENV_PREFIX}BROKER_URL" if settings.broker_url else f"{ENV_PREFIX}REDIS_URL"
    url = settings.broker_url or settings.redis_url
    if url and not url.startswith("sentinel://"):
        check_readable(url, variable, f"<scheme>://[user:password@]host[:port][/...], with one of {BROKERS}")
    scheme = url.partition("://")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        return {"broker_url": url, **_AMQP}
    sentinel = parse_sentinel(url, variable)
    if sentinel is None and scheme not in ("redis", "rediss", ""):
        raise UsageError(f"{variable}: {scheme}:// is no broker we know", fields={variable: f"one of {BROKERS}"})
    return {
        "broker_url": url if sentinel is None else sentinel.broker_url(),
        # Nothing is fetched beyond what runs. Only this transport can do that.
        "worker_disable_prefetch": True,
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
            **({} if sentinel is None else {"master_name": sentinel.master}),
        },
    }


#: RabbitMQ. Its queues have no prefix: an installation has a virtual host of its own.
_AMQP: dict[str, Any] = {
    # Whoever publishes sends no heartbeats while it has nothing to publish, and would be cut off for that. TCP's own
    # keepalive, which the client switches on, notices a peer that is gone.
    "broker_heartbeat": 0,
    "broker_connection_timeout": 5.0,
    # Hints are in the alarm index too: they need not be written to the broker's disk.
    "task_default_delivery_mode": "transient",
    # By default whoever publishes waits for a broker that is away for as long as it is away: a request, a turn, and the
    # pump, which has more to look at than the broker.
    "broker_transport_options": {"max_retries": 0, "interval_start": 0.0, "interval_step": 0.0, "interval_max": 0.0},
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
