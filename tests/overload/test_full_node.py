"""A node whose disk takes no more: the kernel refuses every write of its processes until the limit is lifted again."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from taskflow.agent import shim
from taskflow.agent.sessions import lacks_room
from taskflow.agent.store import Store
from taskflow.errors import InfrastructureError
from taskflow.stack.process import ProcessSpec, SupervisedProcess
from tests.agent.rig import SESSION, WS, AgentRig
from tests.overload.disk import FullDisk
from tests.support.waiting import wait_until


@contextlib.contextmanager
def nothing_fits() -> Iterator[None]:
    """The disk is full for this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_disk() -> Iterator[FullDisk]:
    """Made full by the test, with room again at its end."""
    with FullDisk() as disk:
        yield disk


def command_lines(agent: AgentRig) -> list[list[str]]:
    """What runs under this agent."""
    found = []
    for pid in agent.leftovers():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid).cmdline())
    return found


def pid_of(agent: AgentRig) -> int:
    """The agent itself."""
    assert agent.process is not None
    return agent.process.pid


def test_a_session_survives_a_full_disk(agent: AgentRig, full_disk: FullDisk) -> None:
    """The command writes, ends and is reported, once there is room; its output says where it was cut."""
    agent.ready()
    go = agent.root.parent / "go"
    script = f"echo before; touch begun; until [ -e {go} ]; do sleep 0.05; done; head -c 100000 /dev/zero; exit 3"
    agent.begin("sh", "-c", script)
    agent.wait_output(b"before")
    full_disk.fill(agent.leftovers())
    go.touch()
    wait_until(lambda: not any("until [" in " ".join(c) for c in command_lines(agent)), "the command has ended")
    assert not agent.control_plane.received(f"/sessions/{SESSION}/outcome")
    full_disk.make_room()
    outcome = agent.outcome(timeout_s=30)
    assert (outcome["outcome"], outcome["exit_code"], outcome["log_truncated"]) == ("exited", 3, True)
    output = agent.control_plane.output(SESSION)
    assert output.startswith(b"before\n") and b"[taskflow: output cut: File too large]" in output
    assert len(agent.control_plane.received(f"/sessions/{SESSION}/outcome")) == 1


def test_work_is_committed_once_there_is_room_for_it(rig: AgentRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """git finds the disk full after the command has ended: its work waits, because it would go with the workspace."""
    full, tried, bin_dir = rig.root.parent / "full", rig.root.parent / "tried", rig.root.parent / "bin"
    bin_dir.mkdir()
    git = bin_dir / "git"
    git.write_text(
        f'#!/bin/sh\ncase "$*" in *" commit "*) if [ -e {full} ]; then touch {tried};'
        ' echo "fatal: cannot store it: No space left on device" >&2; exit 128; fi;; esac\n'
        f'exec {shutil.which("git")} "$@"\n'
    )
    git.chmod(0o755)
    environ = rig.env()
    monkeypatch.setattr(rig, "env", lambda: {**environ, "PATH": f"{bin_dir}:{environ['PATH']}"})
    rig.start()
    rig.ready()
    full.touch()
    rig.begin("sh", "-c", "echo work > out")
    wait_until(tried.exists, "git found the disk full")
    assert not rig.control_plane.received(f"/sessions/{SESSION}/outcome")
    full.unlink()
    outcome = rig.outcome()
    assert (outcome["exit_code"], outcome["pushed"], outcome["error"]) == (0, True, None)
    assert outcome["changed_files"] == ["out"]


def test_only_a_full_disk_is_waited_for() -> None:
    """Any other failure of git is reported at once."""
    said = {"code": "git_failed", "message": "fatal: x: No space left on device", "phase": "commit"}
    assert lacks_room({"result": {"error": said}}) and lacks_room({"error": said})
    assert not lacks_room({"result": {"error": {**said, "message": "fatal: no"}}})
    assert not lacks_room({"result": {"error": None}})


def test_a_full_node_refuses_to_begin_and_begins_later(agent: AgentRig, full_disk: FullDisk) -> None:
    """What can't be kept is not begun: 503 that says so, and the same request works when there is room."""
    agent.ready()
    full_disk.fill([pid_of(agent)])
    for answer in (agent.create("ws-other"), agent.session("true")):
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unusable"), answer.text
        assert "can't keep" in answer.json()["message"]
    assert agent.call("GET", agent.workspace_path("ws-other")).status_code == 404
    full_disk.make_room()
    assert agent.create("ws-other").status_code == 202
    assert agent.run("true")["exit_code"] == 0
    assert agent.wait_workspace("ws-other")["status"] == "ready"


def test_a_shim_that_cannot_keep_its_beginning_begins_nothing(tmp_path: Path) -> None:
    """Full just as the command would start: no half-begun session is left, which would later count as lost."""
    with nothing_fits(), pytest.raises(OSError, match="File too large"):
        shim._begin(tmp_path)
    assert not (tmp_path / "shim.json").exists()
    assert shim._begin(tmp_path) and not shim._begin(tmp_path)


def test_provisioning_that_ends_on_a_full_disk_is_reported_when_there_is_room(
    agent: AgentRig, full_disk: FullDisk
) -> None:
    """The clone is done and the agent can't write that down: it goes on trying, and needs no restart."""
    go = agent.root.parent / "go"
    assert agent.create(setup_command=["sh", "-c", f"until [ -e {go} ]; do sleep 0.05; done"]).status_code == 202
    wait_until(lambda: (agent.root / "workspaces" / WS / "repo" / "README").exists(), "cloned")
    full_disk.fill([pid_of(agent)])
    go.touch()
    wait_until(lambda: not any("taskflow.agent.job" in c for c in command_lines(agent)), "the job has ended")
    assert agent.workspace()["status"] == "creating"
    full_disk.make_room()
    assert agent.wait_workspace()["status"] == "ready"
    wait_until(lambda: agent.control_plane.received(f"/workspaces/{WS}/outcome"), "the ready callback")


def test_the_agents_store_goes_on_after_a_commit_that_failed(tmp_path: Path) -> None:
    """A COMMIT that SQLite refuses leaves no open transaction in which every later one would fail."""
    store = Store(tmp_path / "agent.db")
    held = sqlite3.connect(tmp_path / "agent.db", isolation_level=None)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    payload = {"fence": 1, "callback_token": "t", "filler": "x" * 100_000}
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.add_workspace("ws", "digest", payload, {}, 4)
    assert store.workspace("ws") is None
    store._db.execute("PRAGMA max_page_count = 1073741823")
    with nothing_fits(), pytest.raises(sqlite3.OperationalError):
        store.add_workspace("ws", "digest", payload, {}, 4)
    assert store.add_workspace("ws", "digest", payload, {}, 4)
    assert held.execute("SELECT id FROM workspaces").fetchall() == [("ws",)]
    held.close()
    store.close()


def test_a_process_that_cannot_be_started_on_a_full_disk_is_tried_again(tmp_path: Path) -> None:
    """No log file, no configuration: the error is of the kind that the supervisor pauses on, not one that ends it."""

    def no_room() -> None:
        raise OSError(28, "No space left on device")

    spec = ProcessSpec(name="one", argv=("true",), before_start=no_room)
    process = SupervisedProcess(spec, dict(os.environ), tmp_path / "one.log", tmp_path)
    with pytest.raises(InfrastructureError, match="No space left"):
        process.start()
    process = SupervisedProcess(
        ProcessSpec(name="one", argv=("true",)), dict(os.environ), tmp_path / "no" / "one.log", tmp_path
    )
    with pytest.raises(InfrastructureError, match="can't be started"):
        process.start()
