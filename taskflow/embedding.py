"""Running on a Celery application: taskflow's own, or one that exists already with tasks, queues and settings of its own.

``install(app)`` adds the alarm task, the sweeps with their schedule, and what a worker process does before its first
task (take over from the dead, start the pump). Of the application's own configuration nothing is changed.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import redis
import structlog
from celery import Celery, Task, signals
from kombu.entity import Queue

from taskflow.bootstrap import App, bootstrap, make_meter
from taskflow.broker import ALARM_TASK, CeleryPublisher, is_installed, set_queues
from taskflow.celery_settings import ALARM_QUEUE, SWEEP_QUEUE, beat_schedule
from taskflow.engine.meter import Told
from taskflow.errors import InfrastructureError, UsageError
from taskflow.ids import RunId
from taskflow.pipelines.registry import declared
from taskflow.service.accounts import DEFAULT_OWNER, Caller
from taskflow.service.core import Service
from taskflow.settings import Settings

log = structlog.get_logger(__name__)

#: Names among other people's: those of taskflow's own application, ``alarm`` and ``sweep``, others may have as well.
EMBEDDED_ALARM_QUEUE, EMBEDDED_SWEEP_QUEUE = f"taskflow.{ALARM_QUEUE}", f"taskflow.{SWEEP_QUEUE}"
#: A step has a timeout of its own; an application's limit for its tasks is not for turns.
_NO_LIMIT_S = 7 * 86_400.0
#: Pools in which a step that hangs can't be ended without everything else in the process.
_THREADS = ("thread", "gevent", "eventlet")


class Installed:
    """taskflow on a Celery application. One ``App`` for each process, made when first used, and anew after a fork."""

    def __init__(self, app: Celery, settings: Settings, queues: tuple[str, str]) -> None:
        self.celery = app
        self.settings = settings
        self.alarm_queue, self.sweep_queue = queues
        #: Whether a worker of this process takes alarms: then its children do what a worker of taskflow does.
        self.serves = False
        self._app: App | None = None
        self._pid = 0
        self._mutex = threading.Lock()
        self._pumping: set[int] = set()

    def get(self) -> App:
        """The wired App of this process."""
        with self._mutex:
            if self._app is None or self._pid != os.getpid():
                publisher, meter = CeleryPublisher(self.settings, self.celery), make_meter(self.settings, "worker")
                self._app = bootstrap(self.settings, publisher=publisher, on_hung=_recycle, meter=meter)
                self._pid = os.getpid()
            return self._app

    @property
    def service(self) -> Service:
        """The verbs, for the application's own code: ``installed.service.runs.start(installed.acting_for(), ...)``."""
        return self.get().service

    def acting_for(self, owner: str = DEFAULT_OWNER) -> Caller:
        """Who the application's own code is to the verbs: it acts for ``owner``, who is made when new."""
        return self.service.accounts.acting_for(owner, name=str(self.celery.main))

    def close(self) -> None:
        """Close what this process opened, if it did."""
        with self._mutex:
            if self._app is not None and self._pid == os.getpid():
                self._app.close()
            self._app = None

    def begin(self) -> None:
        """What a worker process does before its first task: say that it lives, take over from the dead, start the pump."""
        if os.getpid() in self._pumping:
            return  # Celery's solo pool says that its child started and, in the same process, that the worker is ready
        self._pumping.add(os.getpid())
        wired = self.get()
        wired.check_installation()
        wired.announce()
        wired.take_over()
        threading.Thread(target=wired.pump.run_forever, name="pump", daemon=True).start()


def install(
    app: Celery,
    settings: Settings | None = None,
    *,
    queues: tuple[str, str] = (EMBEDDED_ALARM_QUEUE, EMBEDDED_SWEEP_QUEUE),
) -> Installed:
    """Let the workers and the beat of ``app`` run taskflow beside their own tasks. Call it once ``app`` is configured.

    ``settings``: default, the environment's. ``queues``: of alarms and of sweeps; a worker without ``-Q`` takes both,
    one with ``-Q`` those that it names. Raises ``UsageError`` saying which of the application's settings would lose or
    stop alarms, and for a pipeline that can't be used.
    """
    settings = settings or Settings.from_env()
    if is_installed(app):
        raise UsageError("taskflow is installed on this Celery application already", code="installed")
    _check_configuration(app, queues)
    declared(settings)  # what can't be imported is said here, not in each worker process
    installed = Installed(app, settings, queues)
    set_queues(app, installed.alarm_queue, installed.sweep_queue)
    _add_alarm(installed)
    _add_sweeps(installed)
    _connect(installed)
    return installed


def _check_configuration(app: Celery, queues: tuple[str, str]) -> None:
    """Refuse what would break durability."""
    conf = app.conf
    wrong: dict[str, str] = {}
    if conf.task_always_eager:
        wrong["task_always_eager"] = "must be off: an alarm would run in who rings it, at once and in its transaction"
    accepted = {str(kind).lower() for kind in conf.accept_content or ()}
    if not accepted & {"json", "application/json"}:
        wrong["accept_content"] = "must have json in it: workers would refuse every alarm"
    if _has_no_processes(str(conf.worker_pool)):
        wrong["worker_pool"] = "must be prefork: a step that hangs is ended with its process"
    known = {queue.name if isinstance(queue, Queue) else str(queue) for queue in conf.task_queues or ()}
    if not conf.task_create_missing_queues and not set(queues) <= known:
        wrong["task_queues"] = f"must have {' and '.join(queues)}, as missing ones are not created"
    if wrong:
        raise UsageError(
            "taskflow can't run on this Celery application: " + "; ".join(f"{k} {v}" for k, v in wrong.items()),
            code="celery_settings", fields=wrong,
        )  # fmt: skip


def _has_no_processes(pool: str) -> bool:
    return any(word in pool.lower() for word in _THREADS)


class _Ours(Task):  # type: ignore[misc]
    """A task that takes nothing of ``task_annotations``: those for ``*`` are meant for the application's own."""

    @classmethod
    def annotate(cls) -> None:
        """See ``celery.Task``."""


def _options(app: Celery) -> dict[str, Any]:
    """What a task of ours is, whatever the application's defaults for its own are."""
    options: dict[str, Any] = {
        "base": _Ours,
        "shared": False,  # of this application, not of every other one in the process
        "serializer": "json",
        "ignore_result": True,
        # A lost hint is rung again from the index; one that is delivered twice would only be dropped.
        "acks_late": False,
        "reject_on_worker_lost": False,
        "track_started": False,
        "rate_limit": 0,
    }
    if app.conf.task_time_limit or app.conf.task_soft_time_limit:
        options |= {"time_limit": _NO_LIMIT_S, "soft_time_limit": _NO_LIMIT_S}
    return options


def _add_alarm(installed: Installed) -> None:
    @installed.celery.task(name=ALARM_TASK, typing=False, **_options(installed.celery))  # type: ignore[untyped-decorator]
    def ring_alarm(run_id: str, generation: str = "") -> dict[str, str]:
        """Fire an alarm: one turn of a run. Carries ids only. What it answers is kept nowhere; Flower shows it."""
        told = Told()
        with structlog.contextvars.bound_contextvars(run_id=run_id):
            try:
                verdict = installed.get().runner.turn(RunId(run_id), str(generation), told)
            except (redis.RedisError, InfrastructureError) as error:
                # The lease, if it was taken, runs out; the index rings again when the store is usable.
                log.warning("turn_broken_off", error=repr(error))
                verdict = "broken_off"
        return {"step": told.step, "outcome": told.outcome} if told.step else {"outcome": verdict}


def _add_sweeps(installed: Installed) -> None:
    app = installed.celery
    for name, entry in beat_schedule(installed.settings, installed.sweep_queue).items():
        _add_sweep(installed, name, entry["task"])
        signature = app.signature(entry["task"])
        app.add_periodic_task(entry["schedule"], signature, name=f"taskflow.{name}", **entry["options"])


def _add_sweep(installed: Installed, name: str, task: str) -> None:
    @installed.celery.task(name=task, **_options(installed.celery))  # type: ignore[untyped-decorator]
    def sweep() -> None:
        """One scheduled job."""
        installed.get().sweep(name)


def _connect(installed: Installed) -> None:
    """Signals are of the process, not of one application: what another one's worker says is passed over."""

    def on_setup(instance: Any = None, **_: Any) -> None:
        if instance.app is not installed.celery:
            return
        queues = instance.app.amqp.queues
        if queues.consume_from is queues:  # no -Q: it takes whatever it knows
            for name in (installed.alarm_queue, installed.sweep_queue):
                # As who publishes makes it. A bare one would be bound to the application's default exchange, and where
                # that is a topic or a fanout, its own tasks would be copied into our queues, and run twice.
                queues[name]
        installed.serves = bool({installed.alarm_queue, installed.sweep_queue} & set(queues.consume_from))
        pool = instance.pool_cls.__module__
        if installed.serves and _has_no_processes(pool):
            raise SystemExit(
                f"taskflow's alarms need the prefork pool, not {pool}; give this worker other queues with -Q"
            )

    def on_child(**_: Any) -> None:
        if installed.serves:
            installed.begin()

    def on_ready(sender: Any = None, **_: Any) -> None:
        if installed.serves and "prefork" not in type(sender.pool).__module__:
            installed.begin()

    def on_shutdown(**_: Any) -> None:
        installed.close()

    signals.celeryd_after_setup.connect(on_setup, weak=False)
    signals.worker_process_init.connect(on_child, weak=False)
    signals.worker_ready.connect(on_ready, weak=False)
    signals.worker_process_shutdown.connect(on_shutdown, weak=False)
    signals.worker_shutdown.connect(on_shutdown, weak=False)


def _recycle(step: str) -> None:
    """A step hangs and its lease is over: this process can only be replaced. The pool starts another one."""
    log.error("process_recycled", step=step, pid=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
