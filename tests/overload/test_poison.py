"""Steps that kill their worker, eat its memory or never return, and a backlog, on a real prefork worker and Valkey."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from taskflow.bootstrap import App, bootstrap
from taskflow.db.migrate import upgrade
from taskflow.db.models import ErrorRow, Run
from taskflow.engine.store import RunRow
from taskflow.settings import Settings
from tests.e2e.test_alarms import worker
from tests.overload.toy import HOG_BYTES, executions, insert_kinds
from tests.support.keys import KEYS_OF_THE_INSTALLATION, keys_left
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CRASHES_MAX = 3
SLOTS = 2
BACKLOG = 2000


@dataclasses.dataclass
class Rough:
    """A Valkey, a database, and what a worker of the toy needs to know of them."""

    server: ValkeyServer
    app: App
    owner_id: str
    environ: dict[str, str]
    data_dir: Path

    def start(self, *kinds: str) -> list[RunRow]:
        """New runs, rung as a submission rings them."""
        rows = insert_kinds(self.app, self.owner_id, list(kinds))
        self.app.ringer.publish(self.app.control.ensure(rows))
        return rows

    def row(self, run: RunRow) -> Any:
        """The run as SQL has it."""
        with self.app.database.read() as tx:
            return tx.execute(select(Run.__table__).where(Run.id == run.id)).one()

    def wait(self, runs: Sequence[RunRow], what: str) -> None:
        """Wait until these runs have ended."""
        wait_until(lambda: all(self.row(run).finished_at for run in runs), what, timeout_s=90)

    def finished(self) -> int:
        """How many runs have ended."""
        with self.app.database.read() as tx:
            return tx.execute(select(func.count()).select_from(Run).where(Run.finished_at.is_not(None))).scalar_one()

    def wait_for_no_keys(self) -> None:
        """Wait, while a worker lives, until what ended is gone from Redis: that follows the commit in SQL."""
        kept = (*KEYS_OF_THE_INSTALLATION, "*:celery:*")
        client, prefix = self.app.control.client, self.app.settings.key_prefix
        wait_until(lambda: not keys_left(client, prefix, allowed=kept), "no run has left a key")

    def worker(self) -> contextlib.AbstractContextManager[psutil.Process]:
        """A prefork worker of the toy."""
        return worker(self.environ, self.data_dir / "worker.log", "rough", "tests.overload.toy")

    def queue(self) -> int:
        """Hints in the alarm queue."""
        return self.app.publisher.backlog()


@pytest.fixture
def rough(tmp_path: Path) -> Iterator[Rough]:
    """Short leases, so that many deaths fit into a test."""
    with ValkeyServer() as server:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")} | {
            "TASKFLOW_DATA_DIR": str(tmp_path), "TASKFLOW_REDIS_URL": server.url, "TASKFLOW_LEASE_S": "0.6",
            "TASKFLOW_RING_GRACE_S": "0.2", "TASKFLOW_PUMP_INTERVAL_S": "0.05",
            "TASKFLOW_STEP_MAX_CRASHES": str(CRASHES_MAX), "TASKFLOW_WORKER_CONCURRENCY": str(SLOTS),
        }  # fmt: skip
        app = bootstrap(Settings.from_env(environ))
        upgrade(app.database.engine)
        owner_id = app.service.accounts.create_token(name="t")["owner_id"]
        yield Rough(server, app, owner_id, environ, tmp_path)
        app.close()


@contextlib.contextmanager
def memory_killer(process: psutil.Process, limit: int) -> Iterator[list[int]]:
    """What the kernel does when memory is short: SIGKILL for a child that has taken more than ``limit`` bytes."""
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.memory_info().rss > limit:
                        child.kill()
                        killed.append(child.pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def test_what_ruins_its_worker_is_counted_out_and_the_others_go_on(rough: Rough) -> None:
    """Killed, out of memory, hung: each gets its bounded number of workers; what was submitted meanwhile completes."""
    with rough.worker() as process, memory_killer(process, HOG_BYTES) as killed:
        began = time.monotonic()
        poison, hog, hang, once = rough.start("poison", "hog", "hang", "hang_once")
        fine: list[RunRow] = []
        for _ in range(8):  # submitted while processes die
            fine += rough.start(*["fine"] * 5)
            rough.wait(fine, "the well-behaved ones complete")
        ruined = (poison, hog, hang)
        rough.wait(ruined, "they are counted out")
        rough.wait([once], "the one that hung once is done by another")
        took_s = time.monotonic() - began
        rough.wait_for_no_keys()
    for run in ruined:
        row, pids = rough.row(run), executions(rough.data_dir, run.id)
        assert row.error["code"] == "step_crashes" and row.error["advice"], row.error
        assert len(pids) == CRASHES_MAX and len(set(pids)) == CRASHES_MAX, "each attempt in a process of its own"
    assert set(executions(rough.data_dir, hog.id)) <= set(killed)
    assert rough.row(once).error is None and len(set(executions(rough.data_dir, once.id))) == 2
    assert all(rough.row(run).error is None for run in fine)
    assert all(len(executions(rough.data_dir, run.id)) == 1 for run in fine)
    with rough.app.database.read() as tx:
        assert {row.run_id for row in tx.execute(select(ErrorRow.run_id))} == {run.id for run in ruined}
    log = (rough.data_dir / "worker.log").read_text()
    assert "step_hung" in log and "process_recycled" in log
    print(f"\n3 runs that ruin their worker, {CRASHES_MAX} attempts each, leases of 0.6 s: over after {took_s:.1f} s")


def test_a_backlog_does_not_multiply_itself(rough: Rough) -> None:
    """Two thousand due runs whose hints were lost, one worker: the queue stays short, and every run ends once."""
    runs = insert_kinds(rough.app, rough.owner_id, ["fine"] * BACKLOG)
    for start in range(0, BACKLOG, 500):
        rough.app.control.ensure(runs[start : start + 500])
    settings = rough.app.settings
    limit = settings.pump_queue_factor * SLOTS
    # Each process' pump asks for the room and then claims as much from each shard.
    bound = limit + SLOTS * settings.shards * limit
    longest = 0
    with rough.worker():

        def drained() -> bool:
            nonlocal longest
            longest = max(longest, rough.queue())
            return rough.finished() == BACKLOG

        wait_until(drained, "all have ended", timeout_s=120)
        rough.wait_for_no_keys()
    print(f"\n{BACKLOG} due runs, {SLOTS} slots: the queue held {longest} hints at most (limit {limit}, bound {bound})")
    assert 0 < longest <= bound
    assert {len(executions(rough.data_dir, run.id)) for run in runs} == {1}


def test_redis_at_its_memory_limit_is_said_and_survived(rough: Rough) -> None:
    """``maxmemory`` with ``noeviction``: what is submitted meanwhile is kept in SQL and runs when there is memory."""
    client = rough.app.control.client
    with rough.worker() as process:
        first = rough.start("fine")
        wait_until(lambda: rough.finished() == 1, "the worker works")
        client.config_set("maxmemory", 1)
        health = rough.app.service.health
        assert health.ready()["checks"]["redis_writes"].startswith("command not allowed when used memory")
        rows = insert_kinds(rough.app, rough.owner_id, ["fine"] * 20)
        for row in rows:
            rough.app.service.tasks._starter.start(row, time.perf_counter())  # as a submission does: it must not fail
        wait_until(lambda: "pump_failed" in (rough.data_dir / "worker.log").read_text(), "the worker says so")
        assert rough.finished() == 1
        assert process.is_running()
        client.config_set("maxmemory", 0)
        rough.app.sweep("rescue")  # beat's work; a worker's pump does it when beat is away
        wait_until(lambda: rough.finished() == 21, "all have run", timeout_s=60)
    assert {len(executions(rough.data_dir, run.id)) for run in [*first, *rows]} == {1}
    assert rough.app.service.health._check(rough.app.service.health._redis_takes_writes) == "ok"
