"""Processes are killed while tasks run: every task completes, once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.vault import Vault
from tests.e2e.stack import Stack, assert_completed_once
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HELLO = ["sh", "-c", "sleep 2; echo hi > hello.txt"]


def test_a_killed_worker_loses_no_task_while_the_workspace_is_prepared(stack: Stack, repository: Path) -> None:
    """SIGKILL of the worker's process group during workspace_ready."""
    task = stack.submit(repository, HELLO, setup_command=["sleep", "3"])
    stack.at_step(task, "workspace_ready")
    former = stack.kill("worker")
    began = time.monotonic()
    assert_completed_once(stack, repository, task)
    stack.restarted("worker", former)
    print(f"\nworker killed in workspace_ready: completed {time.monotonic() - began:.1f} s later")


def test_a_killed_worker_loses_no_task_while_the_command_runs(stack: Stack, repository: Path) -> None:
    """SIGKILL of the worker's process group during running."""
    task = stack.submit(repository, HELLO)
    stack.at_step(task, "running")
    stack.kill("worker")
    began = time.monotonic()
    assert_completed_once(stack, repository, task)
    print(f"\nworker killed in running: completed {time.monotonic() - began:.1f} s later")


@pytest.mark.parametrize("name", ["beat", "web", "nodehost"])
def test_a_killed_process_is_started_again_and_the_task_completes(stack: Stack, repository: Path, name: str) -> None:
    """SIGKILL of beat, of the web process, of the node host (and with it of the agent)."""
    task = stack.submit(repository, HELLO)
    stack.at_step(task, "running")
    former = stack.kill(name)
    assert_completed_once(stack, repository, task)
    stack.restarted(name, former)


@pytest.mark.parametrize("step", ["workspace_ready", "running"])
def test_a_killed_node_agent_loses_no_session(stack: Stack, repository: Path, step: str) -> None:
    """SIGKILL of the node agent while it prepares, and while the command runs: the shim outlives it."""
    task = stack.submit(repository, HELLO, setup_command=["sleep", "2"])
    stack.at_step(task, step)
    for pid in stack.agent_pids():
        os.kill(pid, signal.SIGKILL)
    assert_completed_once(stack, repository, task)


def test_a_ready_callback_repeated_contradicted_and_late(stack: Stack, repository: Path) -> None:
    """The real route: a repeat is accepted, a contradiction refused with 409, one after the end with 410."""
    import requests

    task = stack.submit(repository, HELLO)
    stack.at_step(task, "running")
    run_id = stack.task(task)["run_id"]
    workspace = "ws-" + run_id.removeprefix("run-")
    settings = Settings.from_env({"TASKFLOW_DATA_DIR": str(stack.data_dir)})
    token = Vault(DataDir(settings).secret_key()).derive_token("workspace", workspace)

    def report(status: str, commit: str | None) -> int:
        body = {"status": status, "base_commit": commit, "error": None}
        return requests.post(
            f"{stack.info()['url']}/callbacks/workspaces/{workspace}/outcome", json=body,
            headers={"Authorization": f"Bearer {token}"}, timeout=10,
        ).status_code  # fmt: skip

    from tests.e2e.stack import git

    head = git(repository, "rev-parse", "main").strip()
    assert report("ready", head) == 200
    assert report("failed", None) == 409
    assert_completed_once(stack, repository, task)
    assert report("ready", head) == 410


def test_a_killed_supervisor_leaves_no_process_and_its_sessions_are_lost(tmp_path: Path, repository: Path) -> None:
    """SIGKILL of ``taskflow up``: nothing stays; ``up`` again says what became of the session."""
    stack = Stack(tmp_path / "data").start()
    task = stack.submit(repository, ["sleep", "600"])
    stack.at_step(task, "running")
    began = time.monotonic()
    stack.stop(signal.SIGKILL)
    wait_until(lambda: not stack.left_over(), "every process is gone", timeout_s=30)
    print(f"\nsupervisor killed: everything gone {time.monotonic() - began:.1f} s later")

    stack.start()
    try:
        found = stack.finished(task)
        assert (found["status"], found["error"]["code"]) == ("failed", "session_lost")
    finally:
        stack.stop()
    assert stack.left_over() == []
