"""Alarms on real workers and a real Valkey: taken over, surviving a restart, costing nothing while they wait."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from sqlalchemy import func, select

from taskflow.bootstrap import App, bootstrap
from taskflow.db.migrate import upgrade
from taskflow.db.models import Run
from taskflow.settings import Settings
from tests.e2e.stack import Stack, assert_completed_once
from tests.e2e.toy import DEADLY, start_runs
from tests.support import own_pipeline
from tests.support.celery_processes import worker as celery_worker
from tests.support.servers import ValkeyServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PARKED = 1000
PREFIX = "taskflow"


@contextlib.contextmanager
def worker(environ: dict[str, str], log: Path, name: str, app: str = "taskflow.celery") -> Iterator[psutil.Process]:
    """A worker of ours in a process group of its own."""
    with celery_worker(app, name, "alarm,sweep", environ=environ, log=log) as child:
        yield psutil.Process(child.pid)


@dataclasses.dataclass
class Toys:
    """A worker of the toy pipeline and what it works on."""

    server: ValkeyServer
    app: App
    owner_id: str
    process: psutil.Process

    def finished(self, runs: list[str]) -> list[float]:
        """How late each of the runs that ended was, in seconds."""
        with self.app.database.read() as tx:
            rows = tx.execute(select(Run.result).where(Run.id.in_(runs), Run.finished_at.is_not(None))).all()
        return [row.result["late_s"] for row in rows]


@contextlib.contextmanager
def toys_in(tmp_path: Path, **settings: str) -> Iterator[Toys]:
    """One worker with the toy pipelines on a Valkey of its own, which keeps its data."""
    with ValkeyServer() as server:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
        environ |= {"TASKFLOW_DATA_DIR": str(tmp_path), "TASKFLOW_REDIS_URL": server.url, **settings}
        app = bootstrap(Settings.from_env(environ))
        upgrade(app.database.engine)
        owner_id = app.service.accounts.create_token(name="t")["owner_id"]
        with worker(environ, tmp_path / "worker.log", "toy", "tests.e2e.toy") as process:
            yield Toys(server, app, owner_id, process)
        app.close()


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Toys]:
    """With default settings."""
    with toys_in(tmp_path) as found:
        yield found


def test_the_step_of_a_killed_process_begins_again_before_its_lease_is_over(tmp_path: Path) -> None:
    """The process that takes the dead one's place takes over its runs: with this lease nothing else could in time."""
    with toys_in(
        tmp_path, TASKFLOW_LEASE_S="600", TASKFLOW_ALARM_OVERDUE_S="1000", TASKFLOW_PROVIDER_SETTLE_S="700"
    ) as toys:
        rows = own_pipeline.start_runs(
            toys.app, toys.owner_id, DEADLY, [{"marker": str(tmp_path / "marker")}], now=toys.app.control.now()
        )

        def finished() -> bool:
            with toys.app.database.read() as tx:
                return tx.execute(select(Run.finished_at).where(Run.id == rows[0].id)).scalar_one() is not None

        wait_until(finished, "the step has run again", timeout_s=60)


def broker_messages(client: redis.Redis) -> dict[str, int]:
    """Messages in queues and in ``unacked`` hashes, by key."""
    found: dict[str, int] = {}
    for key in client.scan_iter(f"{PREFIX}:celery:*"):
        kind = client.type(key)
        if kind == b"list":
            found[key.decode()] = int(client.llen(key))
        elif b"unacked" in key:
            found[key.decode()] = int(client.hlen(key) if kind == b"hash" else client.zcard(key))
    return found


def test_a_hundred_alarms_survive_a_restart_of_redis(toys: Toys) -> None:
    """Valkey is restarted, its data kept, while a hundred near alarms wait: all fire soon after it is back."""
    runs = start_runs(toys.app, toys.owner_id, [4 + n * 0.06 for n in range(100)])
    queued = [run for run in runs if toys.app.control.describe(run)["state"]]  # type: ignore[arg-type]
    assert len(queued) == 100
    toys.server.restart(sigkill=False)
    back = time.monotonic()
    wait_until(lambda: len(toys.finished(runs)) == 100, "all alarms fired", timeout_s=60)
    late = sorted(toys.finished(runs))
    print(
        f"\n100 alarms, Valkey restarted: all fired {time.monotonic() - back:.1f} s after it was back; late "
        f"p50 {statistics.median(late):.3f} s, p90 {late[89]:.3f} s, max {late[-1]:.3f} s"
    )


def memory(process: psutil.Process) -> int:
    """Unique memory of a worker and its children, in bytes."""
    return sum(one.memory_full_info().uss for one in [process, *process.children(recursive=True)])


def park(toys: Toys, total: int) -> list[str]:
    """Another ``PARKED`` runs on a far alarm, until ``total`` of them are in the index and no message is left."""
    runs = start_runs(toys.app, toys.owner_id, [3600.0] * PARKED)

    def parked() -> bool:
        index = sum(
            int(toys.app.control.client.zcount(toys.app.control.alarms_key(shard), time.time() + 600, "+inf"))
            for shard in range(toys.app.control.shards)
        )
        return index == total

    wait_until(parked, f"{total} runs are parked", timeout_s=90)
    wait_until(lambda: not any(broker_messages(toys.server.client()).values()), "no message is left", timeout_s=30)
    return runs


def test_parked_runs_cost_no_message_and_no_worker_memory(toys: Toys) -> None:
    """Runs on a far alarm: nothing in any queue or ``unacked`` hash, and thousands more don't make the worker grow.

    Its processes grow in rare jumps (an allocator's arena, SQLite's page cache, a child's first sweep) that have nothing
    to do with how many are parked. What a parked run cost would be paid in each round: the one that grew least tells.
    """
    runs, grown = park(toys, PARKED), []
    for rounds in range(2, 5):
        before = memory(toys.process)
        runs += park(toys, rounds * PARKED)
        grown.append(memory(toys.process) - before)
    with toys.app.database.read() as tx:
        still_open = tx.execute(
            select(func.count()).where(Run.owner_id == toys.owner_id, Run.finished_at.is_(None))
        ).scalar()
    print(f"\n{PARKED} more parked, each time: worker grew by {[size // 1024 for size in grown]} KiB")
    assert still_open == len(runs)
    # Waiting countdown messages would be about 9 KB each.
    assert min(grown) < PARKED * 9 * 1024 / 2


def lease_owner_pid(stack: Stack, run_id: str) -> int | None:
    """Which process holds the lease of a run."""
    with stack.redis() as client:
        for key in client.scan_iter(f"{PREFIX}:*:lease:{run_id}"):
            value: Any = client.get(key)
            if value is not None:
                return int(value.decode().split(":")[-2])
    return None


def test_a_step_is_taken_over_when_its_worker_is_killed(stack: Stack, repository: Path, tmp_path: Path) -> None:
    """With a second worker alive, SIGKILL of the first's whole group in the middle of a step: it runs again there."""
    warm_up = stack.submit(repository, ["sh", "-c", "echo 0 > zero.txt"])
    assert_completed_once(stack, repository, warm_up)
    task = stack.submit(repository, ["sh", "-c", "sleep 3; echo 1 > one.txt"])
    stack.at_step(task, "running")
    agents = stack.agent_pids()
    for pid in agents:
        os.kill(pid, signal.SIGSTOP)  # so that a step hangs in its call and can be caught in the middle
    try:
        second = stack.submit(repository, ["sh", "-c", "echo 2 > two.txt"], setup_command=["true"])
        run_id = stack.task(second)["run_id"]
        with worker(stack.worker_environ() | {"TASKFLOW_READY_FILE": ""}, tmp_path / "second.log", "second"):
            first = psutil.Process(stack.pid("worker"))
            owners = {child.pid: first.pid for child in first.children()}

            def held() -> int | None:
                stuck = stack.task(second)["step"] in ("workspace_dispatch", "agent_session", "cleanup")
                return lease_owner_pid(stack, run_id) if stuck else None

            owner = wait_until(held, "a worker is in the middle of the step", timeout_s=60)
            assert owner is not None
            group = owners.get(owner) or os.getpgid(owner)
            killed = time.monotonic()
            os.killpg(group, signal.SIGKILL)
            wait_until(
                lambda: lease_owner_pid(stack, run_id) not in (None, owner), "the step runs again elsewhere",
                timeout_s=30, poll_s=0.02,
            )  # fmt: skip
            print(f"\nworker group killed in a step: running again elsewhere after {time.monotonic() - killed:.2f} s")
    finally:
        for pid in agents:
            os.kill(pid, signal.SIGCONT)
    assert_completed_once(stack, repository, second)
    assert_completed_once(stack, repository, task)
