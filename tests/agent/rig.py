"""A real agent process with its directory, for tests."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import requests

from taskflow import protocol, signing
from taskflow.agent.processes import kill_tree
from tests.agent.control_plane import FakeControlPlane
from tests.support.waiting import wait_until

AGENT_TOKEN = "agent-token-for-tests"
NODE_TOKEN = "node-callback-token"
WORKSPACE_TOKEN = "workspace-callback-token"
NODE_ID = "node-1"
# Leftovers are found by these ids: two test processes at once must not share them.
WS = f"ws-{os.getpid()}-1"
WS_2, WS_3 = f"ws-{os.getpid()}-2", f"ws-{os.getpid()}-3"
SESSION, SESSION_2 = f"session-{os.getpid()}-1", f"session-{os.getpid()}-2"

#: Parameters for a fixture ``isolate``.
BOTH_WAYS = [
    pytest.param(False, id="shared"),
    pytest.param(True, id="isolated", marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can isolate")),
]


def git(repo: Path, *arguments: str) -> str:
    """The output of git in ``repo``."""
    done = subprocess.run(["git", *arguments], cwd=repo, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_origin(path: Path) -> Path:
    """A repository with one commit on ``main``."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "config", "user.name", "Origin")
    git(path, "config", "user.email", "origin@example.org")
    (path / "README").write_text("hello\n")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message", "first")
    return path


class AgentRig:
    """One agent root; the agent can be started, killed and started again."""

    def __init__(
        self,
        tmp_path: Path,
        control_plane: FakeControlPlane,
        *,
        slots: int = 2,
        isolate: bool = False,
        image: str | None = None,
    ) -> None:
        self.root = tmp_path / "agent"
        self.root.mkdir()
        self.origin = make_origin(tmp_path / "origin")
        self.control_plane = control_plane
        self.log = tmp_path / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.data_dir = str(tmp_path)
        self.lifeline_path = tmp_path / "lifeline"
        self._lifeline: IO[str] | None = None
        self.home = tmp_path / "home"
        self.home.mkdir()
        self.host_env: dict[str, str] = {}
        control_plane.tokens |= {NODE_TOKEN, WORKSPACE_TOKEN}
        self.order(slots=slots, isolate=isolate, container_image=image)

    def order(self, **changes: Any) -> None:
        """Write the node's order."""
        order = {
            "node_id": NODE_ID,
            "callback_token": NODE_TOKEN,
            "agent_token": AGENT_TOKEN,
            "slots": 2,
            "heartbeat_interval_s": 0.5,
            **changes,
        }
        (self.root / "order.json").write_text(json.dumps(order))

    # --- the process
    def env(self) -> dict[str, str]:
        """A bare environment: what the test's own host has configured must not matter."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TASKFLOW_DATA_DIR": self.data_dir,
            "TASKFLOW_SECRET_KEY": "stack-secret-key",
            **self.host_env,
        }

    def argv(self, *more: str) -> list[str]:
        """The agent's command line."""
        command = [sys.executable, "-m", "taskflow.agent", "--root", str(self.root)]
        return [*command, "--control-plane-url", self.control_plane.url, *more]

    def start(self, *more: str) -> AgentRig:
        """Start the agent and wait until it listens."""
        before = self.address_file().get("boot_id")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv(*more), env=self.env(), stderr=log)
        process = self.process
        wait_until(
            lambda: process.poll() is not None or self.address_file().get("boot_id", before) != before,
            "the agent listens",
        )
        assert process.poll() is None, self.log.read_text()
        return self

    def address_file(self) -> dict[str, Any]:
        """The content of agent.json."""
        try:
            found: dict[str, Any] = json.loads((self.root / "agent.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def hold_lifeline(self) -> list[str]:
        """Be the supervisor: lock the lifeline file. Returns the agent's arguments for it."""
        self._lifeline = self.lifeline_path.open("w")
        fcntl.flock(self._lifeline, fcntl.LOCK_EX)
        return ["--lifeline", str(self.lifeline_path)]

    def release_lifeline(self) -> None:
        """Die, as a supervisor."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def kill(self) -> None:
        """SIGKILL the agent."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End everything that was started under this rig."""
        self.release_lifeline()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in self.leftovers():
            kill_tree(pid, grace_s=0.0)

    def leftovers(self) -> list[int]:
        """Processes that were started under this rig and still run."""
        wanted = f"TASKFLOW_DATA_DIR={self.data_dir}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    # --- requests
    def call(self, method: str, path: str, body: dict[str, Any] | None = None, **kwargs: Any) -> requests.Response:
        """One request, signed with the agent's token, or with ``headers`` instead."""
        data = b"" if body is None else json.dumps(body).encode()
        signed = {"Authorization": self.sign(method, path, data), "Content-Type": "application/json"}
        headers = kwargs.pop("headers", signed)
        url = self.address_file()["address"] + path
        return requests.request(method, url, data=data, headers=headers, timeout=30, **kwargs)

    def sign(self, method: str, path: str, body: bytes, *, token: str = AGENT_TOKEN, key_id: str = "agent") -> str:
        """What the control plane sends as ``Authorization``."""
        return signing.sign(token, key_id, method=method, target=path, body=body, now=self.control_plane.now())

    def workspace_path(self, workspace_id: str) -> str:
        """The workspace's route."""
        return protocol.route(protocol.AGENT_WORKSPACE, workspace_id=workspace_id)

    def session_path(self, workspace_id: str, session_id: str) -> str:
        """The session's route."""
        return protocol.route(protocol.AGENT_SESSION, workspace_id=workspace_id, session_id=session_id)

    def create(self, workspace_id: str = WS, **changes: Any) -> requests.Response:
        """PUT a workspace."""
        body = {
            "fence": 1,
            "task_id": "task-1",
            "run_number": 1,
            "repository": str(self.origin),
            "branch": None,
            "output_branch": "taskflow/task-1-1",
            "setup_command": None,
            "env": {},
            "provision_timeout_s": 60,
            "callback_token": WORKSPACE_TOKEN,
            **changes,
        }
        return self.call("PUT", self.workspace_path(workspace_id), body)

    def workspace(self, workspace_id: str = WS) -> dict[str, Any]:
        """The workspace's state."""
        found: dict[str, Any] = self.call("GET", self.workspace_path(workspace_id)).json()
        return found

    def wait_workspace(self, workspace_id: str = WS) -> dict[str, Any]:
        """Wait until the workspace is ready or failed."""
        wait_until(lambda: self.workspace(workspace_id)["status"] != "creating", "the workspace is provisioned")
        return self.workspace(workspace_id)

    def ready(self, workspace_id: str = WS, **changes: Any) -> dict[str, Any]:
        """Create a workspace and wait until it is ready."""
        assert self.create(workspace_id, **changes).status_code == 202
        state = self.wait_workspace(workspace_id)
        assert state["status"] == "ready", state
        return state

    def session(
        self, *command: str, workspace_id: str = WS, session_id: str = SESSION, **changes: Any
    ) -> requests.Response:
        """PUT a session."""
        body = {
            "fence": 1,
            "command": list(command),
            "env": {},
            "secrets": {},
            "time_limit_s": 60,
            "log_limit_bytes": 1_000_000,
            "commit_message": "work of the task",
            "push": True,
            **changes,
        }
        return self.call("PUT", self.session_path(workspace_id, session_id), body)

    def begin(self, *command: str, **changes: Any) -> None:
        """Start a session, which must succeed."""
        answer = self.session(*command, **changes)
        assert answer.status_code == 200, answer.text

    def session_state(self, workspace_id: str = WS, session_id: str = SESSION) -> dict[str, Any]:
        """The session's state."""
        found: dict[str, Any] = self.call("GET", self.session_path(workspace_id, session_id)).json()
        return found

    def session_dir(self, workspace_id: str = WS, session_id: str = SESSION) -> Path:
        """The shim's directory."""
        return self.root / "workspaces" / workspace_id / "sessions" / session_id

    def stop(self, workspace_id: str = WS, session_id: str = SESSION) -> requests.Response:
        """POST stop."""
        return self.call("POST", self.session_path(workspace_id, session_id) + "/stop", {})

    def delete(self, workspace_id: str = WS, fence: int = 1) -> requests.Response:
        """DELETE the workspace."""
        return self.call("DELETE", f"{self.workspace_path(workspace_id)}?fence={fence}")

    def outcome(self, session_id: str = SESSION, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for the session's outcome callback."""
        callbacks = wait_until(
            lambda: self.control_plane.received(f"/sessions/{session_id}/outcome"),
            f"outcome of {session_id}",
            timeout_s=timeout_s,
        )
        return callbacks[0].body

    def wait_posts(self, path_end: str, count: int) -> None:
        """Wait until ``count`` callbacks have come whose path ends so."""
        wait_until(lambda: len(self.control_plane.received(path_end)) >= count, f"{count} posts of {path_end}")

    def run(self, *command: str, **changes: Any) -> dict[str, Any]:
        """Run a session to its end; its outcome."""
        answer = self.session(*command, **changes)
        assert answer.status_code == 200, answer.text
        return self.outcome(changes.get("session_id", SESSION))

    def wait_output(self, text: bytes, session_id: str = SESSION) -> None:
        """Wait until the session has written ``text``."""
        output = self.session_dir(session_id=session_id) / "output.log"
        wait_until(lambda: output.exists() and text in output.read_bytes(), f"{text!r} in the output")
