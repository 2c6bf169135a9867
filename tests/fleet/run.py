"""One fleet: servers and stack start, tasks come, the pool is drained, and the cloud's own books are read."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests

from taskflow.clock import SystemClock
from taskflow.stack.ports import free_port
from tests.e2e.stack import Stack
from tests.fleet.agents import RealPlanner, Servers
from tests.support.fake_agent import Plan
from tests.support.fake_cloud import FakeCloud
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

_HETZNER = """
[[provider]]
name = "cloud"
kind = "hetzner"
api_url = "http://127.0.0.1:{port}/v1"
"""
_LIBCLOUD = """
[[provider]]
name = "cloud"
kind = "libcloud"
driver = "{driver}"
options = {{secure = false, host = "127.0.0.1", port = {port}}}
"""
_COMMON = """
token_env = "FLEET_TOKEN"
image = "1"
nodes_max = 16
parallel_max = 8
offer = [
    {size = "size-s", location = "place-1", vcpus = 2, memory_mb = 4000, slots = 3, price_per_hour = 0.01},
    {size = "size-s", location = "place-2", vcpus = 2, memory_mb = 4000, slots = 3, price_per_hour = 0.01},
    {size = "size-l", location = "place-1", vcpus = 8, memory_mb = 16000, slots = 4, price_per_hour = 0.04},
]
"""
PROVIDERS = {
    "fake-hetzner": (_HETZNER, True),
    "fake-digitalocean": (_LIBCLOUD.replace("{driver}", "digitalocean"), False),
    "fake-vultr": (_LIBCLOUD.replace("{driver}", "vultr"), False),
}
#: Short waits: what is broken heals within the run, and nodes end soon after their last task.
_SETTINGS = {
    "TASKFLOW_HEARTBEAT_INTERVAL_S": "2", "TASKFLOW_HEARTBEAT_STALE_S": "30", "TASKFLOW_NODE_WARM_S": "5",
    "TASKFLOW_PROVIDER_TIMEOUT_S": "3", "TASKFLOW_PROVIDER_SETTLE_S": "6", "TASKFLOW_PROVIDER_REST_S": "5",
    "TASKFLOW_OFFER_REST_S": "5", "TASKFLOW_LEASE_S": "3", "TASKFLOW_RESCUE_INTERVAL_S": "2",
    "TASKFLOW_OUTBOX_INTERVAL_S": "2", "TASKFLOW_CAPACITY_POLL_S": "20", "TASKFLOW_AGENT_REQUEST_TIMEOUT_S": "5",
    "TASKFLOW_PROVISION_POLL_S": "1", "TASKFLOW_WORKER_CONCURRENCY": "4", "TASKFLOW_WARM_INTERVAL_S": "3",
    "TASKFLOW_PRIORITY_AGEING_S": "30",
}  # fmt: skip
_DEADLINE_S = 270.0
#: Those of a project at Hetzner, all of which may come at once.
_REQUESTS_PER_HOUR = 3600


class Fleet:
    """The stack, the cloud and the tasks of one run."""

    def __init__(self, root: Path, provider: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self._root = root
        self._file, self._unique = PROVIDERS[provider]
        self._closing = ExitStack()
        self.calm = threading.Event()

    def __enter__(self) -> Fleet:
        enter = self._closing.enter_context
        postgres, valkey = enter(PostgresServer()), enter(ValkeyServer())
        self.cloud = FakeCloud(SystemClock(), unique_names=self._unique)
        self.ledger = self.cloud.ledger
        self.ledger.faults.requests_per_hour = _REQUESTS_PER_HOUR
        plan = Plan(boot_s=0.3, workspace_s=0.1, session_s=0.8)
        port = free_port()
        self.servers = Servers(RealPlanner(), plan, lambda: f"http://127.0.0.1:{port}")
        self.ledger.on_created, self.ledger.on_deleted = self.servers.bought, self.servers.deleted
        enter(self.cloud)
        path = self._root / "providers.toml"
        path.write_text(self._file.format(port=self.cloud.port) + _COMMON)
        self.stack = Stack(
            self._root / "data",
            {
                **_SETTINGS, "TASKFLOW_DATABASE_URL": postgres.create_database("fleet"), "TASKFLOW_REDIS_URL": valkey.url,
                "TASKFLOW_PROVIDERS_FILE": str(path), "FLEET_TOKEN": self.ledger.token, "TASKFLOW_PORT": str(port),
                "TASKFLOW_PUBLIC_URL": f"http://127.0.0.1:{port}",
            },
        )  # fmt: skip
        self._closing.callback(self.stack.stop)
        self.stack.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.calm.set()
        for agent in list(self.servers.agents.values()):
            agent.alive = False
        self._closing.__exit__(*exc_info)

    # --- tasks

    def submit(self, number: int) -> str:
        """One task, once: its key makes a repeat harmless."""
        spec = {
            "repository": "/srv/repository", "command": ["true"], "time_limit_s": 120.0, "push": False,
            "priority": number % 3, "title": f"task {number}",
        }  # fmt: skip
        return str(self._call("POST", "/api/tasks", json=spec, headers={"Idempotency-Key": f"fleet-{number}"})["id"])

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any) -> Any:
        end = time.monotonic() + 60
        while True:
            info = self.stack.info()
            given = {"Authorization": f"Bearer {info['token']}", **(headers or {})}
            try:
                answer = requests.request(method, info["url"] + path, headers=given, timeout=15, **options)
                if answer.status_code < 500 and answer.status_code != 429:
                    answer.raise_for_status()
                    return answer.json()
            except requests.ConnectionError:
                pass
            if time.monotonic() > end:
                raise AssertionError(f"{method} {path} was not answered")
            time.sleep(0.2)  # the web process is busy or away: ask again a little later

    def open_tasks(self) -> int:
        """How many have not ended."""
        path = "/api/tasks?limit=1&status=queued,delegated,in_progress"
        return len(self._call("GET", path)["tasks"])

    def drain(self) -> None:
        """Ask every node to go, and wait until none is left."""

        def drained() -> bool:
            nodes = self._call("GET", "/api/nodes")["nodes"]
            for node in nodes:
                if node["status"] not in ("draining", "destroyed"):
                    self._call("POST", f"/api/nodes/{node['id']}/destroy", json={})
            return not nodes

        wait_until(drained, "every node is destroyed", timeout_s=90, poll_s=0.5)

    # --- trouble

    def trouble(self) -> None:
        """Until it is calm: workers are killed, the cloud breaks, agents go away. In a thread of its own."""
        faults, said = self.ledger.faults, dict[str, int]()
        while not self.calm.wait(self.chance.uniform(0.5, 2.0)):
            kind = self.chance.choice(
                ("worker", "lost_answer", "outage", "proxy", "sold_out", "quota", "slow", "lag", "rate", "agent")
            )
            said[kind] = said.get(kind, 0) + 1
            if kind == "worker":
                self.kill_the_worker()
            elif kind == "lost_answer":
                faults.lose_answers += 1
            elif kind == "outage":
                faults.outages += 3
            elif kind == "proxy":
                faults.proxy_pages += 2
            elif kind == "sold_out":
                faults.sold_out = {("size-s", self.chance.choice(("place-1", "place-2", "*")))}
            elif kind == "quota":
                faults.servers_max = None if faults.servers_max is not None else self.chance.randint(10, 13)
            elif kind == "slow":
                faults.slow_s = 0.0 if faults.slow_s else 0.4
            elif kind == "lag":
                faults.lag_s = 0.0 if faults.lag_s else 2.0
            elif kind == "rate":
                faults.too_many, faults.too_many_s = {"GET": 4, "POST": 1, "DELETE": 1}, 3.0
            else:
                agents = [one for one in list(self.servers.agents.values()) if one.alive]
                if agents:
                    self.chance.choice(agents).restart(self.chance.uniform(0.5, 3.0))
        faults.lose_answers = faults.outages = faults.proxy_pages = 0
        faults.sold_out, faults.servers_max, faults.slow_s, faults.lag_s, faults.too_many = set(), None, 0.0, 0.0, {}
        print(f"trouble: {said}", file=sys.stderr)

    def kill_the_worker(self) -> None:
        """SIGKILL, with all its processes."""
        try:
            os.killpg(self.stack.pid("worker"), signal.SIGKILL)
        except (OSError, StopIteration, ValueError, TypeError):
            pass  # it is down already, and comes back by itself

    # --- what came of it

    def report(self, ids: list[str]) -> dict[str, Any]:
        """Counted from the cloud's books, the agents, and the tasks."""
        with ThreadPoolExecutor(8) as pool:
            tasks = list(pool.map(lambda task_id: self._call("GET", f"/api/tasks/{task_id}"), ids))
        servers = list(self.ledger.servers.values())
        agents = list(self.servers.agents.values())
        twice = [count for agent in agents for count in (*agent.created.values(), *agent.started.values()) if count > 1]
        left = sum(len(agent.workspaces) for agent in agents if agent.alive)
        print(f"requests: {self.ledger.requests}, {self.ledger.refused_for_rate} too many", file=sys.stderr)
        for task in tasks:
            if task["status"] != "completed":
                print(f"{task['id']} is {task['status']}: {task['error']}", file=sys.stderr)
        return {
            "tasks": len(ids),
            "completed": sum(task["status"] == "completed" for task in tasks),
            "servers_created": len(servers),
            "servers_destroyed": sum(server.deleted_at is not None for server in servers),
            "leaked": len(self.ledger.alive()),
            "double_created": len(self.ledger.bought_twice()),
            "over_capacity": sum(agent.most_workspaces > agent.order.agent["slots"] for agent in agents),
            "faults": len(twice) + left + sum(agent.wrong_tokens for agent in agents),
        }


def run_fleet(root: Path, *, tasks: int, provider: str, seed: int, chaos: bool) -> dict[str, Any]:
    """Submit ``tasks`` and see them through. ``faults`` counts broken promises: effects that happened twice, workspaces
    that were left, requests with a wrong token."""
    with Fleet(root, provider, seed) as fleet:
        trouble = threading.Thread(target=fleet.trouble, name="trouble", daemon=True)
        if chaos:
            trouble.start()
        with ThreadPoolExecutor(6) as pool:
            ids = list(pool.map(fleet.submit, range(tasks)))
        began = time.monotonic()

        def look() -> bool:
            left = fleet.open_tasks()
            if chaos and time.monotonic() - began > 0.6 * _DEADLINE_S:
                fleet.calm.set()
            return left == 0

        wait_until(look, "no task is open", timeout_s=_DEADLINE_S, poll_s=1.0)
        fleet.calm.set()
        if chaos:
            trouble.join()
        fleet.drain()
        return fleet.report(ids)
