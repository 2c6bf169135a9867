"""What workers and beat load: the alarm task, the pump of each worker process, the sweeps.

Connections are made in the process that uses them, never inherited through a fork.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import redis
import structlog
from celery import signals

from taskflow import logs
from taskflow.agent.processes import set_parent_death_signal
from taskflow.bootstrap import App, bootstrap
from taskflow.broker import ALARM_TASK, CeleryPublisher, make_celery
from taskflow.celery_settings import beat_schedule
from taskflow.errors import InfrastructureError
from taskflow.ids import RunId
from taskflow.settings import Settings

log = structlog.get_logger(__name__)

settings = Settings.from_env()
app = make_celery(settings)
app.set_current()


class _Process:
    """The ``App`` of this process; another one after a fork."""

    def __init__(self) -> None:
        self._app: App | None = None
        self._pid = 0
        self._mutex = threading.Lock()

    def get(self) -> App:
        """The wired App of this process."""
        with self._mutex:
            if self._app is None or self._pid != os.getpid():
                self._app = bootstrap(settings, publisher=CeleryPublisher(settings, app), on_hung=_recycle)
                self._pid = os.getpid()
            return self._app

    def close(self) -> None:
        """Close it, if this process made one."""
        with self._mutex:
            if self._app is not None and self._pid == os.getpid():
                self._app.close()
            self._app = None


process = _Process()


def _recycle(step: str) -> None:
    """A step hangs and its lease is over: this process can only be replaced. The pool starts another one."""
    log.error("process_recycled", step=step, pid=os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name=ALARM_TASK, typing=False)  # type: ignore[untyped-decorator]
def ring_alarm(run_id: str, generation: str = "") -> None:
    """Fire an alarm: one turn of a run. Carries ids only."""
    with structlog.contextvars.bound_contextvars(run_id=run_id):
        try:
            process.get().runner.turn(RunId(run_id), str(generation))
        except (redis.RedisError, InfrastructureError) as error:
            # The lease, if it was taken, runs out; the index rings again when the store is usable.
            log.warning("turn_broken_off", error=repr(error))


def _register_sweep(name: str) -> None:
    @app.task(name=f"taskflow.sweep.{name}")  # type: ignore[untyped-decorator]
    def sweep() -> None:
        process.get().sweep(name)


for _name in beat_schedule(settings):
    _register_sweep(_name)


_pumping: set[int] = set()


def _begin() -> None:
    """What a process does before its first task: say that it lives, take over from the dead, start the pump."""
    if os.getpid() in _pumping:
        return  # Celery's solo pool says that its child started and, in the same process, that the worker is ready
    _pumping.add(os.getpid())
    wired = process.get()
    wired.check_installation()
    wired.announce()
    wired.take_over()
    threading.Thread(target=wired.pump.run_forever, name="pump", daemon=True).start()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _on_child(**_: Any) -> None:
    # A worker that was killed must not leave children that go on taking messages.
    set_parent_death_signal(signal.SIGKILL)
    _begin()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _on_worker_ready(sender: Any = None, **_: Any) -> None:
    if "prefork" not in type(sender.pool).__module__:
        _begin()
    _say_ready()


@signals.beat_init.connect  # type: ignore[untyped-decorator]
def _on_beat(**_: Any) -> None:
    _say_ready()


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _on_shutdown(**_: Any) -> None:
    process.close()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _on_logging(**_: Any) -> None:
    logs.configure(settings)


def _say_ready() -> None:
    """Tell the supervisor, which waits for this file."""
    path = os.environ.get("TASKFLOW_READY_FILE")
    if path:
        Path(path).touch()
