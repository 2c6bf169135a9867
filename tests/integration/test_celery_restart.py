"""Why Celery is pinned: a worker must outlive a restart of its broker while it holds messages it has not acknowledged.

Celery 5.7.0's worker exits there. ``make newest-celery`` runs these tests with the newest release and says whether the pin
can go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import plain_celery
from tests.support.celery_processes import Child, clean_environ, worker
from tests.support.seen import looks
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

POOLS = ("prefork", "threads")


@contextlib.contextmanager
def plain_worker(server: ValkeyServer, folder: Path, pool: str) -> Iterator[Child]:
    """A worker with the defaults that Celery's documentation starts from: acknowledgements, a visibility timeout."""
    environ = clean_environ(BENCH_LOG=str(folder / "looks"), BENCH_BROKER=server.url, BENCH_POOL=pool)
    with worker("tests.support.plain_celery", "one", "celery", environ=environ, log=folder / "worker.log") as child:
        yield child


def send(server: ValkeyServer, task: str, *args: object, countdown: float | None = None) -> None:
    """Send a task to it."""
    with plain_celery.app.connection_for_write(server.url) as connection:
        plain_celery.app.send_task(task, args, countdown=countdown, connection=connection)


@pytest.mark.parametrize("holds", ["countdown", "running"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_outlives_a_restart_of_its_broker_and_serves_again(tmp_path: Path, pool: str, holds: str) -> None:
    """With a countdown in its memory, or a late-acknowledged task at work, when the broker goes and comes."""
    with ValkeyServer() as server, plain_worker(server, tmp_path, pool) as child:
        if holds == "countdown":
            send(server, "bench.once", "far", countdown=3600.0)
        else:
            send(server, "bench.hang", "hang", 20.0)
        with server.client() as client:
            wait_until(lambda: client.hlen("unacked"), "the worker holds an unacknowledged message", timeout_s=30)
        server.restart()
        send(server, "bench.once", "after")

        def served() -> bool:
            assert child.process.poll() is None, f"the worker exited:\n{child.log.read_text()[-2000:]}"
            return any(look.job == "after" for look in looks(tmp_path / "looks"))

        wait_until(served, "the worker serves again", timeout_s=60)
        assert child.process.poll() is None
