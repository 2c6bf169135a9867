"""A workspace and a session from creation to the reported outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskflow import protocol
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import BOTH_WAYS, NODE_TOKEN, SESSION, WORKSPACE_TOKEN, WS, AgentRig, git
from tests.support.waiting import wait_until


@pytest.fixture(params=BOTH_WAYS)
def isolate(request: pytest.FixtureRequest) -> bool:
    """Each of these holds on nodes that isolate and on those that don't."""
    return bool(request.param)


def test_a_change_is_committed_and_pushed_to_the_output_branch(agent: AgentRig) -> None:
    """Clone, run, commit, push: the origin's output branch holds the work and nothing else of it moved."""
    main_before = git(agent.origin, "rev-parse", "main")
    state = agent.ready()
    assert state["base_commit"] == main_before
    outcome = agent.run("sh", "-c", "echo hi > hello.txt; echo said")
    assert outcome["outcome"] == "exited"
    assert outcome["exit_code"] == 0
    assert outcome["pushed"] is True
    assert outcome["error"] is None
    assert outcome["changed_files"] == ["hello.txt"]
    assert outcome["output_branch"] == "taskflow/task-1-1"
    assert git(agent.origin, "rev-parse", "taskflow/task-1-1") == outcome["commit"]
    assert git(agent.origin, "show", "taskflow/task-1-1:hello.txt") == "hi"
    assert git(agent.origin, "log", "-1", "--format=%s %an", "taskflow/task-1-1") == "work of the task taskflow"
    assert git(agent.origin, "rev-parse", "main") == main_before
    assert git(agent.origin, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/main",
        "refs/heads/taskflow/task-1-1",
    ]
    assert agent.control_plane.output(SESSION) == b"said\n"
    assert outcome["log_chunks"] == len(agent.control_plane.received("/logs"))
    assert agent.session_state()["outcome"] == outcome


def test_callbacks_carry_the_token_of_what_they_tell_of(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """Node callbacks use the node's token, workspace and session callbacks the workspace's."""
    agent.ready()
    agent.run("echo", "x")
    wait_until(lambda: control_plane.received("/heartbeat"), "a heartbeat")
    for callback in control_plane.callbacks:
        wanted = NODE_TOKEN if "/callbacks/nodes/" in callback.path else WORKSPACE_TOKEN
        assert callback.token == wanted, callback.path
    outcomes = control_plane.received(f"/workspaces/{WS}/outcome")
    assert [callback.body["status"] for callback in outcomes] == ["ready"]


def test_heartbeats_follow_ready_and_show_the_session(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """Ready comes first; a heartbeat obeys its schema and shows the running session with its output's age."""
    agent.ready()
    agent.begin("sh", "-c", "echo working; sleep 60")
    agent.wait_output(b"working")

    def shown() -> list[dict[str, object]]:
        return [
            session
            for callback in control_plane.received("/heartbeat")
            for session in protocol.load(protocol.HeartbeatSchema, callback.body)["sessions"]
            if session["output_bytes"]
        ]

    seen = wait_until(shown, "a heartbeat with the session")[0]
    assert seen["session_id"] == SESSION
    assert seen["status"] == "running"
    assert isinstance(seen["output_age_s"], float)
    node_calls = [call.path.rpartition("/")[2] for call in control_plane.callbacks if "/nodes/" in call.path]
    assert node_calls[0] == "ready"
    assert set(node_calls[1:]) == {"heartbeat"}


def test_nothing_changed_means_no_commit_and_no_branch(agent: AgentRig) -> None:
    """A command that changes nothing leaves no commit and pushes nothing."""
    agent.ready()
    outcome = agent.run("true")
    assert (outcome["commit"], outcome["output_branch"], outcome["pushed"]) == (None, None, False)
    assert "taskflow/" not in git(agent.origin, "branch", "--list")


def test_a_commit_made_by_the_command_counts(agent: AgentRig) -> None:
    """The command's own commit, on a branch of its own, is pushed to the output branch, with later changes on top."""
    agent.ready()
    commit = "git -c user.name=C -c user.email=c@example.org commit --quiet -m mine"
    outcome = agent.run("sh", "-c", f"git checkout -q -b own; echo 1 > a; git add a; {commit}; echo 2 > b")
    assert outcome["changed_files"] == ["a", "b"]
    assert git(agent.origin, "log", "--format=%s", "-2", "taskflow/task-1-1").split("\n") == [
        "work of the task",
        "mine",
    ]
    assert "own" not in git(agent.origin, "branch", "--list")


def test_without_push_the_commit_stays_in_the_workspace(agent: AgentRig) -> None:
    """push=false commits but leaves the origin alone."""
    agent.ready()
    outcome = agent.run("sh", "-c", "echo hi > x", push=False)
    assert outcome["commit"]
    assert outcome["pushed"] is False
    assert outcome["error"] is None
    assert "taskflow/" not in git(agent.origin, "branch", "--list")


def test_the_setup_command_runs_with_its_environment(agent: AgentRig, tmp_path: Path) -> None:
    """The setup command runs in the clone with the workspace's environment, and a file URL is cloned as well."""
    agent.ready(
        repository=f"file://{agent.origin}",
        setup_command=["sh", "-c", 'echo "$COLOUR $TASKFLOW_WORKSPACE_ID" > made'],
        env={"COLOUR": "red"},
    )
    agent.run("cat", "made", "README")
    assert agent.control_plane.output(SESSION) == f"red {WS}\nhello\n".encode()


def test_the_asked_branch_is_cloned(agent: AgentRig) -> None:
    """A branch other than the origin's HEAD is the base when asked for."""
    git(agent.origin, "checkout", "--quiet", "-b", "other")
    git(agent.origin, "commit", "--quiet", "--allow-empty", "--message", "on other")
    other = git(agent.origin, "rev-parse", "other")
    git(agent.origin, "checkout", "--quiet", "main")
    assert agent.ready(branch="other")["base_commit"] == other


def test_a_session_sees_only_the_allowed_environment(agent: AgentRig) -> None:
    """The stack's own variables don't reach a session; its task's and the marks do."""
    agent.ready()
    agent.run("env", env={"GIVEN": "yes"})
    lines = agent.control_plane.output(SESSION).decode().split("\n")
    assert "GIVEN=yes" in lines
    assert "TASKFLOW_TASK_ID=task-1" in lines
    assert "TASKFLOW_RUN_NUMBER=1" in lines
    assert f"TASKFLOW_SESSION_ID={SESSION}" in lines
    assert f"TASKFLOW_DATA_DIR={agent.data_dir}" in lines
    assert not [line for line in lines if line.startswith(("TASKFLOW_SECRET_KEY", "PYTHONPATH"))]
