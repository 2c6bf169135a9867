"""taskflow's own Celery application, which workers and beat load: installed like on any other, and nothing else on it.

Connections are made in the process that uses them, never inherited through a fork.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from celery import signals

from taskflow import logs
from taskflow.agent.processes import set_parent_death_signal
from taskflow.broker import make_celery
from taskflow.celery_settings import ALARM_QUEUE, SWEEP_QUEUE
from taskflow.embedding import install
from taskflow.settings import Settings

settings = Settings.from_env()
app = make_celery(settings)
app.set_current()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _on_child(**_: Any) -> None:
    # A worker that was killed must not leave children that go on taking messages.
    set_parent_death_signal(signal.SIGKILL)


# After the handler above: a child is tied to its worker before it takes anything over.
process = install(app, settings, queues=(ALARM_QUEUE, SWEEP_QUEUE))


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
@signals.beat_init.connect  # type: ignore[untyped-decorator]
def _on_ready(**_: Any) -> None:
    """Tell the supervisor, which waits for this file."""
    path = os.environ.get("TASKFLOW_READY_FILE")
    if path:
        Path(path).touch()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _on_logging(**_: Any) -> None:
    logs.configure(settings)
