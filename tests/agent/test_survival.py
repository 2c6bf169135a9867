"""What survives the death of the agent, of the control plane, and of the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import SESSION, WS, WS_2, AgentRig, git
from tests.support.waiting import wait_until

_SLOW = "echo begun; until [ -e ../../../../go ]; do sleep 0.05; done; echo over; echo hi > hello.txt"


def release(agent: AgentRig) -> None:
    """Let a session that runs ``_SLOW`` go on."""
    (agent.root.parent / "go").touch()


def test_an_agent_killed_during_a_session_reports_it_once(agent: AgentRig) -> None:
    """SIGKILL of the agent, the command ends meanwhile, a new agent: one outcome, one commit, the whole log."""
    agent.ready()
    agent.begin("sh", "-c", _SLOW)
    agent.wait_output(b"begun")
    agent.kill()
    release(agent)
    exit_file = agent.session_dir() / "exit.json"
    wait_until(exit_file.exists, "the shim reports without an agent")
    agent.start()
    outcome = agent.outcome()
    assert (outcome["outcome"], outcome["exit_code"], outcome["pushed"]) == ("exited", 0, True)
    assert git(agent.origin, "rev-list", "--count", "main..taskflow/task-1-1") == "1"
    assert agent.control_plane.output(SESSION) == b"begun\nover\n"
    beats = len(agent.control_plane.received("/heartbeat"))
    wait_until(lambda: len(agent.control_plane.received("/heartbeat")) > beats + 1, "two more heartbeats")
    assert len(agent.control_plane.received(f"/sessions/{SESSION}/outcome")) == 1
    assert agent.control_plane.changed_chunks == []


def test_a_restarted_agent_follows_a_running_session(agent: AgentRig) -> None:
    """The session goes on under its shim; the new agent, on the same port, takes it up and can stop it."""
    agent.ready()
    agent.begin("sh", "-c", "echo begun; sleep 1000")
    agent.wait_output(b"begun")
    port = agent.address_file()["port"]
    agent.kill()
    agent.start()
    assert agent.address_file()["port"] == port
    assert agent.session_state()["status"] == "running"
    agent.stop()
    assert agent.outcome()["outcome"] == "stopped"


def test_an_agent_killed_again_and_again_makes_one_commit(agent: AgentRig) -> None:
    """Killed at several moments around the end of a session, the work is committed and reported once."""
    agent.ready()
    agent.begin("sh", "-c", _SLOW)
    agent.wait_output(b"begun")
    release(agent)
    for _ in range(4):
        agent.kill()
        agent.start()
    agent.outcome()
    assert git(agent.origin, "rev-list", "--count", "main..taskflow/task-1-1") == "1"
    assert {call.body["commit"] for call in agent.control_plane.received(f"/sessions/{SESSION}/outcome")} == {
        git(agent.origin, "rev-parse", "taskflow/task-1-1")
    }


def test_an_agent_killed_while_it_deletes_goes_on_deleting(agent: AgentRig) -> None:
    """What it was told is written down before anything is ended: its successor finishes, and refuses a late start."""
    agent.ready()
    agent.begin("sh", "-c", "trap '' TERM; echo begun; while :; do sleep 1; done")
    agent.wait_output(b"begun")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.delete, fence=2)
        wait_until((agent.session_dir() / "stop").exists, "the session is being ended, which its command delays")
        agent.kill()
        with pytest.raises(requests.ConnectionError):
            asked.result()
    agent.start()
    assert agent.workspace()["status"] == "deleted"
    assert agent.session("true", fence=3).status_code == 410
    wait_until(lambda: not (agent.root / "workspaces" / WS).exists(), "its successor removes the rest")


def test_sigterm_ends_the_agent_and_leaves_the_session(agent: AgentRig) -> None:
    """A deploy of the agent costs no session."""
    agent.ready()
    agent.begin("sh", "-c", _SLOW)
    agent.wait_output(b"begun")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(timeout=30) == 0
    release(agent)
    agent.start()
    assert agent.outcome()["exit_code"] == 0


def test_sigterm_ends_the_agent_whichever_of_its_threads_gets_it(rig: AgentRig) -> None:
    """The kernel may give a signal to any thread; only the main one runs handlers, and it may be asleep."""
    agent = rig.start()
    assert agent.process is not None
    threads = [int(task.name) for task in Path(f"/proc/{agent.process.pid}/task").iterdir()]
    os.kill(max(threads), signal.SIGTERM)  # the thread with this id is asked first
    assert max(threads) != agent.process.pid
    assert agent.process.wait(timeout=30) == 0


def test_provisioning_starts_over_after_a_restart(agent: AgentRig, tmp_path: Path) -> None:
    """Killed while provisioning: its children die with it, the next agent begins from an empty directory."""
    log = tmp_path / "setups"
    once = f"echo x >> {log}; test -e half && exit 9; touch half; [ $(wc -l < {log}) = 2 ] || sleep 100"
    agent.create(setup_command=["sh", "-c", once])
    wait_until((tmp_path / "setups").exists, "the setup runs")
    agent.kill()
    wait_until(lambda: not agent.leftovers(), "provisioning ended with its agent")
    agent.start()
    assert agent.wait_workspace()["status"] == "ready"
    assert (tmp_path / "setups").read_text() == "x\nx\n"
    wait_until(lambda: agent.control_plane.received(f"/workspaces/{WS}/outcome"), "the outcome")


def test_outcomes_survive_a_control_plane_that_is_down(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """Control plane down over the end of a session and a restart of the agent: all is delivered, in order."""
    agent.ready()
    wait_until(lambda: control_plane.received(f"/workspaces/{WS}/outcome"), "the ready callback")
    control_plane.down()
    agent.begin("sh", "-c", "echo hi > x; echo said")
    wait_until(lambda: agent.session_state()["status"] == "ended", "the session ends")
    assert agent.session_state()["outcome"]["exit_code"] == 0, "the outcome can be asked for meanwhile"
    agent.kill()
    agent.start()
    control_plane.up()
    outcome = agent.outcome()
    assert outcome["exit_code"] == 0
    assert control_plane.output(SESSION) == b"said\n"


def test_the_workspace_outcome_comes_before_the_sessions(agent: AgentRig, control_plane: FakeControlPlane) -> None:
    """Order is kept for each workspace, also when the first message needs several attempts."""
    failures = iter([500, 0, 503])
    control_plane.fault = lambda call: next(failures, None) if call.path.endswith(f"{WS}/outcome") else None
    agent.ready()
    agent.run("true")
    paths = [call.path for call in control_plane.callbacks if call.path.endswith("/outcome")]
    assert paths == [f"/callbacks/workspaces/{WS}/outcome"] * 4 + [
        f"/callbacks/workspaces/{WS}/sessions/{SESSION}/outcome"
    ]


def test_without_its_supervisor_everything_ends(rig: AgentRig) -> None:
    """Agent, shim, command and provisioning end with the lifeline; the next agent reports the session as lost."""
    agent = rig.start(*rig.hold_lifeline())
    agent.ready()
    agent.begin("sh", "-c", "trap '' TERM; setsid env -i sleep 1000 & echo begun; while :; do sleep 0.1; done")
    agent.wait_output(b"begun")
    agent.create(WS_2, setup_command=["sleep", "1000"])
    agent.release_lifeline()
    wait_until(lambda: not agent.leftovers(), "nothing runs any more")
    assert agent.process is not None
    assert agent.process.wait(timeout=5) == 0
    agent.start(*agent.hold_lifeline())
    outcome = agent.outcome()
    assert (outcome["outcome"], outcome["error"]["code"]) == ("lost", "stack_gone")


def test_the_lifeline_also_ends_a_session_whose_agent_is_dead(rig: AgentRig) -> None:
    """Agent killed first, then the supervisor: the shim alone sees to it that nothing is left."""
    agent = rig.start(*rig.hold_lifeline())
    agent.ready()
    agent.begin("sh", "-c", "echo begun; sleep 1000")
    agent.wait_output(b"begun")
    agent.kill()
    assert agent.leftovers()
    agent.release_lifeline()
    wait_until(lambda: not agent.leftovers(), "nothing runs any more")


def test_the_agent_dies_with_its_parent_when_told(rig: AgentRig) -> None:
    """--die-with-parent: SIGKILL of the starter ends the agent."""
    starter = subprocess.Popen(
        ["sh", "-c", '"$@" & echo; wait', "sh", *rig.argv("--die-with-parent")],
        env=rig.env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: rig.address_file().get("pid"), "the agent listens")
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    wait_until(lambda: not rig.leftovers(), "the agent is gone")


def test_a_second_agent_on_the_same_root_is_refused(agent: AgentRig) -> None:
    """Two agents on one directory would run everything twice: the second says so and ends."""
    second = subprocess.run(agent.argv(), env=agent.env(), capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert "another agent is running" in second.stderr
    assert agent.call("GET", "/health").status_code == 200


def test_a_root_without_an_order_is_refused(rig: AgentRig) -> None:
    """A missing order is named, not a traceback."""
    (rig.root / "order.json").unlink()
    done = subprocess.run(rig.argv(), env=rig.env(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "order.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_state_files_are_private(agent: AgentRig) -> None:
    """Tokens lie in the database and the address file says where to knock: neither is for others to read."""
    agent.ready()
    for name in ("agent.db", "agent.db-wal", "agent.json"):
        assert (agent.root / name).stat().st_mode & 0o077 == 0, name
    assert (agent.root / "workspaces").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("status", [401, 404, 409, 410])
def test_a_strangers_refusal_costs_no_outcome(agent: AgentRig, status: int) -> None:
    """What a proxy answers instead of the control plane is no word about the report: it is sent until that one has it."""
    control_plane = agent.control_plane
    answers = iter([status, status])
    control_plane.refusal = {}
    control_plane.fault = lambda call: next(answers, None) if call.path.endswith("/outcome") else None
    agent.ready()
    assert agent.run("true")["exit_code"] == 0
    assert len(control_plane.received(f"/workspaces/{WS}/outcome")) == 3
