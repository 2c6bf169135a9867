"""The node host with a stub in the agent's place."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent.ending import Ending
from taskflow.agent.processes import is_alive
from taskflow.files import read_json
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.stack.nodehost import NodeHost
from tests.support.waiting import wait_until

# Like an agent: notes its pid, and starts a session that leaves its group.
STUB = """
import json, os, signal, subprocess, sys
env = dict(os.environ, TASKFLOW_WORKSPACE_ID="ws-1")
kid = subprocess.Popen(["sleep", "600"], start_new_session=True, env=env)
os.makedirs(sys.argv[1] + "/workspaces/ws-1", exist_ok=True)
with open(sys.argv[1] + "/pids.tmp", "w") as file:
    json.dump({"agent": os.getpid(), "session": kid.pid, "secret": "TASKFLOW_SECRET_KEY" in os.environ}, file)
os.rename(sys.argv[1] + "/pids.tmp", sys.argv[1] + "/pids.json")
signal.pause()
"""


@pytest.fixture
def nodes(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The nodes directory of a running node host."""
    monkeypatch.setenv("TASKFLOW_SECRET_KEY", "s")
    lifeline = tmp_path / "lifeline"
    lifeline.touch()
    host = NodeHost(settings, lifeline, argv=lambda root, _url, _line: [sys.executable, "-c", STUB, str(root)])
    ended = Ending()
    thread = threading.Thread(target=host.run, args=(ended,))
    thread.start()
    path = DataDir(settings).nodes
    yield path
    for node in path.iterdir():
        (node / "destroy").touch()
        wait_until((node / "destroyed").exists, "cleaned up")
    ended.set()
    thread.join()


def order(nodes: Path, name: str) -> Path:
    """Order a node and wait for its agent."""
    node = nodes / name
    node.mkdir()
    (node / "order.json").write_text("{}")
    wait_until((node / "pids.json").exists, "the agent runs")
    return node


def test_an_agent_runs_for_each_order_and_is_restarted(nodes: Path) -> None:
    """A killed agent comes back, and is never given the installation's secrets."""
    node = order(nodes, "one")
    first = read_json(node / "pids.json")
    assert first
    assert first["secret"] is False
    os.kill(first["agent"], signal.SIGKILL)
    wait_until(lambda: read_json(node / "pids.json") != first, "a new agent runs")


def test_destroy_ends_every_process_of_the_node_and_removes_its_data(nodes: Path) -> None:
    """Agent and session end, nothing secret stays; another node is not touched."""
    node, other = order(nodes, "one"), order(nodes, "two")
    pids, others = read_json(node / "pids.json"), read_json(other / "pids.json")
    assert pids
    assert others
    (node / "destroy").touch()
    wait_until((node / "destroyed").exists, "destroyed")
    assert not is_alive(pids["agent"])
    assert not is_alive(pids["session"])
    assert {entry.name for entry in node.iterdir()} == {"destroy", "destroyed"}
    assert is_alive(others["agent"])
