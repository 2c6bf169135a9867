"""Everything that runs: PostgreSQL, Valkey, the links, the supervisor with its processes; and the API for callers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import make_url, select

from taskflow.agent.processes import processes_with_env
from taskflow.db.models import Node, Workspace
from taskflow.db.session import make_engine
from taskflow.stack.ports import free_port
from taskflow.vault import Vault
from tests.chaos.plan import LINKS
from tests.chaos.proxy import Proxies
from tests.e2e.stack import make_repository
from tests.support.processes import die_with_parent, end_process
from tests.support.servers import PostgresServer, ValkeyServer
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_DATABASE = "chaos"
#: The workload's pace: short waits, so that what is broken heals within a run and nodes end soon after their last task.
#: Those that wait for a slot are rung when one is free; looking themselves is rare, or hundreds of them fill the queue.
_SETTINGS = {
    "TASKFLOW_LEASE_S": "3", "TASKFLOW_RESCUE_INTERVAL_S": "2", "TASKFLOW_OUTBOX_INTERVAL_S": "2",
    "TASKFLOW_HEARTBEAT_INTERVAL_S": "2", "TASKFLOW_HEARTBEAT_STALE_S": "30", "TASKFLOW_CAPACITY_POLL_S": "40",
    "TASKFLOW_LIVENESS_POLL_S": "15", "TASKFLOW_NEWER_STATE_RETRY_S": "2", "TASKFLOW_NODE_SLOTS": "12",
    "TASKFLOW_LOCAL_NODES_MAX": "2", "TASKFLOW_NODE_WARM_S": "5", "TASKFLOW_WORKER_CONCURRENCY": "3",
    "TASKFLOW_WARM_INTERVAL_S": "3", "TASKFLOW_STUCK_INTERVAL_S": "10",
}  # fmt: skip


class Unanswered(Exception):
    """The API gave no final answer in time."""


class Installation:
    """One installation under ``root``. A ``with`` block starts and ends it."""

    def __init__(self, root: Path) -> None:
        self.root, self.data_dir, self.notes = root, root / "data", root / "notes"
        self.notes.mkdir(parents=True)
        self.repository = make_repository(root / "repository")
        self.output = root / "supervisor.log"
        self.postgres, self.valkey = PostgresServer(durable=True), ValkeyServer(appendfsync="always")
        self.links = Proxies(*LINKS)
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.supervisor_deaths: list[float] = []
        self.tokens: set[str] = set()
        # The kernel ties a child's life to the thread that started it: each server has a thread that lasts.
        self._owners = {name: ThreadPoolExecutor(1, name) for name in ("valkey", "postgres", "supervisor")}

    def __enter__(self) -> Installation:
        try:
            self.owned("postgres", self.postgres.start)
            self.owned("valkey", self.valkey.start)
            self.database_url = self.postgres.create_database(_DATABASE)
            self.engine = make_engine(self.database_url)
            self.web_port = free_port()
            targets = {"valkey": self.valkey.port, "postgres": self.postgres.port, "web": self.web_port}
            for link in LINKS:
                self.links[link].target_port = targets.get(link.split("-")[1], 0)
            self.links["worker-agent"].told = True  # agents come and go, each on a port of its own
            self.start_supervisor()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.supervisor is not None:
            end_process(self.supervisor, signal.SIGTERM, timeout_s=90)
        if hasattr(self, "engine"):
            self.engine.dispose()
        self.links.close()
        self.valkey.close()
        self.postgres.close()
        for owner in self._owners.values():
            owner.shutdown()

    # --- the stack

    def _environ(self) -> dict[str, str]:
        links = {}
        for process in ("worker", "web"):
            redis_port, sql_port = self.links[f"{process}-valkey"].port, self.links[f"{process}-postgres"].port
            url = make_url(self.database_url).set(port=sql_port).render_as_string(hide_password=False)
            links[process] = {"TASKFLOW_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0", "TASKFLOW_DATABASE_URL": url}
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}, **_SETTINGS,
            "TASKFLOW_DATA_DIR": str(self.data_dir), "TASKFLOW_PORT": str(self.web_port),
            "TASKFLOW_REDIS_URL": self.valkey.url, "TASKFLOW_DATABASE_URL": self.database_url,
            "TASKFLOW_PUBLIC_URL": f"http://127.0.0.1:{self.links['agent-web'].port}",
            "CHAOS_LINKS": json.dumps(links), "CHAOS_AGENT_LINK": str(self.links["worker-agent"].port),
            "CHAOS_DIR": str(self.notes), "PYTHONPATH": str(_ROOT),
        }  # fmt: skip

    def owned(self, name: str, work: Callable[[], object]) -> None:
        """Do ``work``, which starts a process of ``name``, in the thread that outlives it."""
        self._owners[name].submit(work).result()

    def start_supervisor(self) -> None:
        """Start it and wait until it serves; one that gives up, because a store is down, is started again."""
        self._spawn()
        wait_until(self._serves, f"the stack serves; see {self.output}", timeout_s=180, poll_s=0.2)

    def _spawn(self) -> None:
        def start() -> None:
            with self.output.open("ab") as log:
                self.supervisor = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.supervised"], env=self._environ(), stdout=log, stderr=log,
                    cwd=self.root, preexec_fn=die_with_parent(signal.SIGTERM),
                )  # fmt: skip

        self.owned("supervisor", start)

    def _serves(self) -> bool:
        assert self.supervisor is not None
        if self.supervisor.poll() is not None:
            time.sleep(1)  # as an init system would: not at once
            self._spawn()
        info = self._info()
        if info is None or info["supervisor_pid"] != self.supervisor.pid:
            return False
        self.tokens.add(info["token"])
        return True

    def derived_tokens(self) -> frozenset[bytes]:
        """The tokens of every node and workspace there was, in both directions."""
        vault = Vault((self.data_dir / "secret.key").read_text().strip())
        with self.engine.connect() as sql:
            nodes, workspaces = (list(sql.execute(select(kind.id)).scalars()) for kind in (Node, Workspace))
        made = [vault.derive_token("workspace", name) for name in workspaces]
        made += [vault.derive_token(scope, name) for scope in ("node", "agent") for name in nodes]
        return frozenset(token.encode() for token in made)

    def _info(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
            return found
        return None

    def kill_supervisor(self) -> None:
        """As if the machine went away: supervisor and, by it, everything below it; then start it again."""
        assert self.supervisor is not None
        self.supervisor_deaths.append(time.time())
        self.supervisor.kill()
        self.supervisor.wait(20)
        wait_until(lambda: not self.processes(), "everything below the supervisor ended", timeout_s=60)
        self.start_supervisor()

    def processes(self) -> list[int]:
        """Processes of this installation, without the servers."""
        return [pid for pid in processes_with_env("TASKFLOW_DATA_DIR", str(self.data_dir)) if pid != os.getpid()]

    def pid(self, name: str) -> int | None:
        """The living process of that name, or None while it is down."""
        with contextlib.suppress(OSError, ValueError, StopIteration):
            rows = json.loads((self.data_dir / "run" / "processes.json").read_text())["processes"]
            return next(int(row["pid"]) for row in rows if row["name"] == name and row["pid"])
        return None

    def agent_pids(self) -> list[int]:
        """The node agents that run."""
        found = []
        for file in sorted((self.data_dir / "nodes").glob("*/agent.json")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.append(int(json.loads(file.read_text())["pid"]))
        return found

    # --- the API, asked until it gives a final answer

    def api(
        self, method: str, path: str, *, patience_s: float = 240, headers: dict[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """One request, repeated while there is no answer below 500. Raises ``Unanswered``."""
        end = time.monotonic() + patience_s
        said = "nothing"
        while time.monotonic() < end:
            info = self._info()
            if info is not None:
                given = {"Authorization": f"Bearer {info['token']}", **(headers or {})}
                try:
                    answer = requests.request(method, info["url"] + path, headers=given, timeout=15, **options)
                    if answer.status_code < 500 and answer.status_code not in (401, 429):
                        return answer
                    said = f"{answer.status_code} {answer.text[:300]}"
                except requests.RequestException as error:
                    said = repr(error)
            time.sleep(0.25)  # the web process is being hurt: ask again a little later
        raise Unanswered(f"{method} {path}: {said}")
