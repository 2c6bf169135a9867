"""The command lines of the stack's processes, and their description for the supervisor. ``Procfile`` says the same."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from taskflow.files import read_json
from taskflow.settings import Settings
from taskflow.stack import ports
from taskflow.stack.data_dir import DataDir
from taskflow.stack.environment import READY_FILE
from taskflow.stack.process import ProcessSpec

FLOWER_HOST = "127.0.0.1"
WORKER_WARM_STOP_S = 10.0  # SIGTERM: no new alarms, turns in progress end
WORKER_COLD_STOP_S = 5.0  # SIGQUIT: turns are cut off and taken up again after the lease
_CELERY = ("-m", "celery", "-A", "taskflow.celery")


@dataclass(frozen=True)
class FlowerLogin:
    """Who may look at Flower."""

    user: str = "taskflow"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)


def migrate_argv() -> list[str]:
    """Brings the database's schema up to date, then exits."""
    return [sys.executable, "-m", "taskflow", "db", "upgrade"]


def nodehost_argv() -> list[str]:
    """Runs the agents of local nodes."""
    return [sys.executable, "-m", "taskflow", "nodehost"]


def worker_argv(unique: str = "1") -> list[str]:
    """A Celery worker; how many processes it has and what it logs is said by the settings. ``unique`` tells apart the
    workers of one host."""
    return [
        sys.executable, *_CELERY, "worker", "-Q", "alarm,sweep",
        "-E",  # task events: what Flower shows
        "--without-gossip", "--without-mingle",  # nothing here needs workers to know each other
        "-n", f"worker-{unique}@%h",
    ]  # fmt: skip


def beat_argv(schedule: Path) -> list[str]:
    """Celery beat; ``schedule`` is the file where it notes what ran when."""
    # No pid file: a stale one after a crash would keep beat from starting.
    return [sys.executable, *_CELERY, "beat", "--schedule", str(schedule), "--pidfile="]


def web_argv() -> list[str]:
    """The web process; address, threads and the rest are in ``gunicorn_conf``, from the settings."""
    return [sys.executable, "-m", "gunicorn", "-c", "python:taskflow.stack.gunicorn_conf", "web:create_app()"]


def flower_argv(port: int) -> list[str]:
    """Flower; its login comes in the environment, as ``FLOWER_BASIC_AUTH``."""
    return [sys.executable, *_CELERY, "flower", f"--address={FLOWER_HOST}", f"--port={port}"]


def stack_specs(settings: Settings, data_dir: DataDir, flower: FlowerLogin | None) -> list[ProcessSpec]:
    """All processes but the embedded server, in the order of their start. ``settings``: every port chosen."""
    specs = [
        ProcessSpec(name="migrations", argv=migrate_argv(), oneshot=True, ready_timeout_s=600.0),
        _nodehost(data_dir),
        _worker(data_dir),
        _beat(data_dir),
        ProcessSpec(
            name="web",
            argv=web_argv(),
            ready=lambda: ports.http_answers(settings.host, settings.port, "/healthz"),
            stop_signals=((signal.SIGTERM, 8.0),),
            death_signal=signal.SIGKILL,
        ),
    ]
    if flower is not None:
        specs.append(_flower(settings, flower))
    return specs


def _nodehost(data_dir: DataDir) -> ProcessSpec:
    record = data_dir.run / "nodehost.json"
    return ProcessSpec(
        name="nodehost",
        argv=nodehost_argv(),
        before_start=lambda: record.unlink(missing_ok=True),
        ready=lambda: read_json(record) is not None,
        stop_signals=((signal.SIGTERM, 15.0),),
        secrets=False,
    )


def _worker(data_dir: DataDir) -> ProcessSpec:
    before_start, ready, path = _ready_file(data_dir, "worker")
    return ProcessSpec(
        name="worker",
        argv=worker_argv(secrets.token_hex(4)),
        env={READY_FILE: str(path)},
        before_start=before_start,
        ready=ready,
        stop_signals=((signal.SIGTERM, WORKER_WARM_STOP_S), (signal.SIGQUIT, WORKER_COLD_STOP_S)),
        # Without its supervisor it has no broker either: a warm stop would only wait for it.
        death_signal=signal.SIGKILL,
    )


def _beat(data_dir: DataDir) -> ProcessSpec:
    before_start, ready, path = _ready_file(data_dir, "beat")
    return ProcessSpec(
        name="beat",
        argv=beat_argv(data_dir.run / "celerybeat-schedule"),
        env={READY_FILE: str(path)},
        before_start=before_start,
        ready=ready,
        stop_signals=((signal.SIGTERM, 5.0),),
        death_signal=signal.SIGKILL,
    )


def _flower(settings: Settings, login: FlowerLogin) -> ProcessSpec:
    return ProcessSpec(
        name="flower",
        argv=flower_argv(settings.flower_port),
        env={"FLOWER_BASIC_AUTH": f"{login.user}:{login.password}"},
        ready=lambda: ports.http_answers(FLOWER_HOST, settings.flower_port, "/healthcheck"),
        ready_timeout_s=20.0,
        essential=False,
        stop_signals=((signal.SIGTERM, 3.0),),
        death_signal=signal.SIGKILL,
    )


def _ready_file(data_dir: DataDir, name: str) -> tuple[Callable[[], None], Callable[[], bool], Path]:
    path = data_dir.run / f"{name}.ready"
    return (lambda: path.unlink(missing_ok=True)), path.exists, path
