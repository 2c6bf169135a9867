"""Keeps one worker alive: ``python -m tests.crashpoints.keeper``. The imports are paid once, each worker is a fork."""

from __future__ import annotations

import os
import signal
import sys

from celery.apps import worker as _worker  # noqa: F401  imported before the fork
from celery.concurrency import solo as _solo  # noqa: F401
from kombu.transport import redis as _redis  # noqa: F401

from taskflow.agent.processes import set_parent_death_signal
from tests.crashpoints.worker import app


def _serve() -> None:
    set_parent_death_signal(signal.SIGKILL)
    app.worker_main(
        ["worker", "-P", "solo", "-Q", "alarm,sweep", "--without-gossip", "--without-mingle", "--without-heartbeat",
         "-n", f"worker-{os.getpid()}@%h", "--loglevel", "INFO"]
    )  # fmt: skip


def main() -> None:
    """Fork a worker, wait for its end, again; until SIGTERM, which ends both. A worker that exits by itself is a bug."""
    set_parent_death_signal(signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _serve()
            os._exit(3)
        _, status = os.waitpid(pid, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            print(f"the worker ended with wait status {status}", file=sys.stderr, flush=True)
            os._exit(4)


if __name__ == "__main__":
    main()
