"""Redis fails over to a replica under runs that wait: all end, and nothing has to be told where the new master is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.sentinel import MasterNotFoundError, Sentinel
from sqlalchemy import select

from taskflow.bootstrap import bootstrap
from taskflow.db.migrate import upgrade
from taskflow.db.models import Run
from taskflow.settings import Settings
from taskflow.stack.ports import free_port
from tests.e2e.toy import start_runs
from tests.support.celery_processes import clean_environ, worker
from tests.support.processes import die_with_parent, end_process
from tests.support.servers import ValkeyServer, valkey_binary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MASTER = "main"


@contextlib.contextmanager
def sentinels(master: ValkeyServer, directory: Path, number: int = 3) -> Iterator[list[tuple[str, int]]]:
    """Watch ``master``: a majority decides within about a second that it is gone."""
    hosts = [("127.0.0.1", free_port()) for _ in range(number)]
    processes = []
    try:
        for host, port in hosts:
            config = directory / f"sentinel-{port}.conf"
            config.write_text(
                f"bind {host}\nport {port}\nsentinel monitor {MASTER} 127.0.0.1 {master.port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
            )
            with (directory / f"sentinel-{port}.log").open("ab") as log:
                argv = [str(valkey_binary()), str(config), "--sentinel"]
                processes.append(
                    subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=die_with_parent(signal.SIGKILL))
                )
        yield hosts
    finally:
        for process in processes:
            end_process(process, signal.SIGKILL)


def ready(hosts: list[tuple[str, int]]) -> bool:
    """Whether each sentinel knows the replica and the others."""
    try:
        for host, port in hosts:
            with redis.Redis(host=host, port=port, socket_timeout=2) as client:
                state = client.sentinel_master(MASTER)
                if state["num-slaves"] != 1 or state["num-other-sentinels"] != len(hosts) - 1:
                    return False
    except redis.RedisError:
        return False
    return True


def master_port(hosts: list[tuple[str, int]]) -> int:
    """Where the sentinels say the master is; 0 while there is none."""
    try:
        return int(Sentinel(hosts).discover_master(MASTER)[1])
    except MasterNotFoundError:
        return 0


def test_runs_end_although_the_master_is_killed(tmp_path: Path) -> None:
    """Twenty wait for their alarms; a worker and this process find the promoted replica by themselves."""
    with ValkeyServer() as master, ValkeyServer() as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
        with sentinels(master, tmp_path) as hosts:
            wait_until(lambda: ready(hosts), "the sentinels know each other and the replica", timeout_s=60)
            url = f"sentinel://{','.join(f'{host}:{port}' for host, port in hosts)}/{MASTER}"
            environ = clean_environ(TASKFLOW_DATA_DIR=str(tmp_path / "data"), TASKFLOW_REDIS_URL=url)
            app = bootstrap(Settings.from_env(environ))
            upgrade(app.database.engine)
            owner_id = app.service.accounts.create_token(name="t")["owner_id"]

            def open_runs(runs: list[str]) -> int:
                with app.database.read() as tx:
                    rows = tx.execute(select(Run.id).where(Run.id.in_(runs), Run.finished_at.is_(None))).all()
                return len(rows)

            with worker("tests.e2e.toy", "toy", "alarm,sweep", environ=environ, log=tmp_path / "worker.log"):
                runs = start_runs(app, owner_id, [4.0 + n / 10 for n in range(20)])
                assert master.pid is not None
                os.kill(master.pid, signal.SIGKILL)
                wait_until(lambda: master_port(hosts) == replica.port, "the replica is the master", timeout_s=60)
                wait_until(lambda: open_runs(runs) == 0, "all runs ended", timeout_s=90)
            app.close()
