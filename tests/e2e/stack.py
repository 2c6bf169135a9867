"""A stack started like a user does, with ``taskflow up``, and the means to hurt it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import redis
import requests

from taskflow.agent.processes import processes_with_env
from tests.support.processes import die_with_parent
from tests.support.waiting import wait_until


class Stack:
    """``taskflow up`` on a data directory of its own, on free ports."""

    def __init__(
        self, data_dir: Path, environ: Mapping[str, str] | None = None, *, cwd: Path | None = None, flower: bool = False
    ) -> None:
        self.data_dir = data_dir
        self.cwd = cwd or data_dir.parent
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")},
            "TASKFLOW_DATA_DIR": str(data_dir),
            "TASKFLOW_PORT": "0",
            "TASKFLOW_FLOWER_PORT": "0",
            "TASKFLOW_HEARTBEAT_INTERVAL_S": "1",
            **(environ or {}),
        }
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.output = data_dir.parent / f"{data_dir.name}.up.log"

    def start(self, timeout_s: float = 90) -> Stack:
        """Start it and wait until it serves."""
        with self.output.open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "taskflow", "up"],
                env=self.environ,
                stdout=log,
                stderr=log,
                cwd=self.cwd,
                preexec_fn=die_with_parent(signal.SIGTERM),  # a cut test run leaves no stack behind
            )
        wait_until(self._serves, f"the stack serves; see {self.output}", timeout_s=timeout_s)
        return self

    def _serves(self) -> bool:
        assert self.supervisor is not None
        assert self.supervisor.poll() is None, self.output.read_text()
        try:
            info = self.info()
            if info["supervisor_pid"] != self.supervisor.pid:
                return False
            answer = requests.get(info["url"] + "/readyz", timeout=2)
            # Beat is known by a sweep, which has its first turn some seconds later.
            checks = answer.json().get("error", {}).get("detail", {}).get("checks", {})
            return answer.ok or [name for name, says in checks.items() if says != "ok"] == ["beat"]
        except (OSError, ValueError, requests.RequestException):
            return False

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """Signal the supervisor and wait for its end."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.send_signal(sig)
            self.supervisor.wait(90)

    def left_over(self) -> list[int]:
        """Processes whose environment holds this data directory."""
        return [pid for pid in processes_with_env("TASKFLOW_DATA_DIR", str(self.data_dir)) if pid != os.getpid()]

    # --- looking

    def info(self) -> dict[str, Any]:
        """What ``stack.json`` says."""
        found: dict[str, Any] = json.loads((self.data_dir / "stack.json").read_text())
        return found

    def pid(self, name: str) -> int:
        """The process called ``name`` that runs now."""
        rows = json.loads((self.data_dir / "run" / "processes.json").read_text())
        rows = rows["processes"] if isinstance(rows, dict) and "processes" in rows else rows
        return int(next(row["pid"] for row in rows if row["name"] == name))

    def agent_pids(self) -> list[int]:
        """The node agents that run."""
        files = sorted((self.data_dir / "nodes").glob("*/agent.json"))
        return [int(json.loads(file.read_text())["pid"]) for file in files]

    def redis(self) -> redis.Redis:
        """A client of the stack's Redis."""
        return redis.Redis.from_url(self.info()["redis_url"])

    def worker_environ(self) -> dict[str, str]:
        """The environment of the stack's worker, to start a second one like it."""
        return dict(psutil.Process(self.pid("worker")).environ())

    # --- hurting

    def kill(self, name: str) -> int:
        """SIGKILL the process group called ``name``; its former pid."""
        pid = self.pid(name)
        os.killpg(pid, signal.SIGKILL)
        return pid

    def restarted(self, name: str, former: int) -> None:
        """Wait until the supervisor has started it again."""

        def other() -> bool:
            try:
                return self.pid(name) != former
            except TypeError:  # at this moment there is none
                return False

        wait_until(other, f"{name} was started again")

    # --- using

    def command(self, *arguments: str) -> str:
        """What a command of ``taskflow`` prints, run beside the stack."""
        done = subprocess.run(
            [sys.executable, "-m", "taskflow", *arguments], env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    def api(self, method: str, path: str, **kwargs: Any) -> Any:
        """One request to the API; retried while the web process is away."""
        end = time.monotonic() + 30
        while True:
            info = self.info()
            headers = {"Authorization": f"Bearer {info['token']}"}
            try:
                response = requests.request(method, info["url"] + path, headers=headers, timeout=30, **kwargs)
                response.raise_for_status()
                return response.json()
            except requests.ConnectionError:
                if time.monotonic() > end:
                    raise

    def submit(self, repository: Path, command: Sequence[str], **spec: Any) -> str:
        """Submit a task; its id."""
        task = self.api("POST", "/api/tasks", json={"repository": str(repository), "command": list(command), **spec})
        return str(task["id"])

    def task(self, task_id: str) -> dict[str, Any]:
        """The task as the API shows it."""
        found: dict[str, Any] = self.api("GET", f"/api/tasks/{task_id}")
        return found

    def at_step(self, task_id: str, step: str) -> None:
        """Wait until the task is at ``step``."""
        wait_until(lambda: self.task(task_id)["step"] == step, f"{task_id} is at {step}", timeout_s=60)

    def finished(self, task_id: str, timeout_s: float = 120) -> dict[str, Any]:
        """Wait until nothing of the task goes on any more."""

        def look() -> dict[str, Any] | None:
            task = self.task(task_id)
            return task if task["finished"] else None

        found = wait_until(look, f"{task_id} is finished", timeout_s=timeout_s, poll_s=0.2)
        assert found is not None
        return found

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's history."""
        found: list[dict[str, Any]] = self.api("GET", f"/api/tasks/{task_id}/events?limit=1000")["events"]
        return found

    def statuses(self, task_id: str) -> Counter[str]:
        """How often each status was entered."""
        return Counter(event["data"]["to"] for event in self.events(task_id) if event["kind"] == "status_changed")


def git(repository: Path, *arguments: str) -> str:
    """Output of a git command in ``repository``."""
    done = subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def make_repository(path: Path) -> Path:
    """A git repository with one commit."""
    path.mkdir()
    git(path, "-c", "init.defaultBranch=main", "init", "-q")
    (path / "README.md").write_text("hello\n")
    git(path, "add", "-A")
    git(path, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "first")
    return path


def assert_completed_once(stack: Stack, repository: Path, task_id: str) -> dict[str, Any]:
    """The task completed, was in progress once, ended once, and made exactly one commit on its branch."""
    task = stack.finished(task_id)
    assert task["status"] == "completed", task
    statuses = stack.statuses(task_id)
    assert (statuses["in_progress"], statuses["completed"]) == (1, 1), statuses
    branch = task["result"]["output_branch"]
    assert git(repository, "rev-list", "--count", f"main..{branch}").strip() == "1"
    return task
