"""Settings of the web process, read by gunicorn (``-c python:taskflow.stack.gunicorn_conf``)."""

from __future__ import annotations

import signal
from typing import Any

from taskflow.agent.processes import set_parent_death_signal
from taskflow.settings import Settings

_settings = Settings.from_env()
_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

bind = [f"{_host}:{_settings.port}"]
worker_class = "gthread"
workers = _settings.web_processes
# A stream holds a thread: never more than half of them.
threads = max(16, 2 * _settings.streams_max)
# A stop waits for requests this long. Streams end when it begins.
graceful_timeout = 5
# A thread worker reports through a thread of its own, so this only finds a process that hangs as a whole.
timeout = 60
keepalive = 5
# Filters are part of the address: the longest line that gunicorn can take.
limit_request_line = 8190
accesslog = None
errorlog = "-"
loglevel = _settings.log_level.lower()
# Nobody uses it, and it would lie in the user's home directory.
control_socket_disable = True


def post_fork(_server: Any, _worker: Any) -> None:
    """In each worker: end with the process that forked it, even if that is killed."""
    set_parent_death_signal(signal.SIGTERM)


def post_worker_init(worker: Any) -> None:
    """In each worker, with the application loaded: streams end when the worker is told to stop."""
    worker.wsgi.extensions["taskflow.streams"].stop_when(lambda: not worker.alive)
