"""A node on another machine whose link is cut: unknown for a while, then lost as a whole, and never taken back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from taskflow.db.models import Workspace
from taskflow.errors import PermanentError, TransientError
from tests.support.fake_agent import outcome
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def running(world: World, **spec: Any) -> dict[str, Any]:
    """A task whose command runs until the test ends it."""
    world.plan.session_s = None
    task = world.submit(**spec)
    world.at_step(task, "running")
    return task


def test_while_nothing_is_known_the_task_says_so_and_until_when(remote_world: World) -> None:
    """Since when, what agent and provider said, when it is given up; nothing of it when the node is heard of again."""
    task = running(remote_world)
    last = remote_world.node().last_heartbeat_at
    remote_world.agent.cut = True
    remote_world.run_until(lambda: remote_world.node().unreachable_since, "it is noticed")

    shown, why = remote_world.task(task["id"]), remote_world.why(task["id"])
    assert shown["status"] == "in_progress"
    found = shown["unreachable"]
    assert (found["agent_answers"], found["server_state"]) == (False, "running")
    assert shown["unknown_since"] == found["since"] == why["unknown_since"]
    assert why["unreachable"] == found
    assert "its agent did not answer, its provider said that it is running" in why["summary"]
    silent_s = time.time() - last
    remote_world.run_for(200.0)
    assert remote_world.task(task["id"])["status"] == "in_progress"
    assert silent_s < 20.0

    remote_world.agent.heal()
    remote_world.run_until(lambda: remote_world.node().unreachable_since is None, "it is heard of")
    assert remote_world.task(task["id"])["unreachable"] is None
    assert remote_world.why(task["id"])["unknown_since"] is None
    remote_world.agent.finish_session(next(iter(remote_world.agent.sessions)))
    assert remote_world.finish(task)["status"] == "completed"
    remote_world.assert_settled()


def test_a_node_that_is_silent_for_too_long_is_lost_with_what_is_on_it(remote_world: World) -> None:
    """Provider and health check don't matter then. The task ends with signs and times; nobody waits for the agent."""
    task = running(remote_world)
    last = remote_world.node().last_heartbeat_at
    remote_world.agent.cut = True

    remote_world.run_until(lambda: remote_world.task(task["id"])["status"] == "failed", "it is given up")

    settings = remote_world.settings
    assert settings.node_lost_s < time.time() - last < settings.node_lost_s + settings.heartbeat_stale_s
    done = remote_world.finish(task)
    assert time.time() - last < settings.node_lost_s + 2 * settings.heartbeat_stale_s
    error = done["error"]
    assert (error["code"], error["detail"]["by"]) == ("node_lost", "silence")
    assert error["detail"]["last_heartbeat_at"] and error["detail"]["decided_at"]
    assert "taskflow rerun" in error["advice"]
    assert [session["outcome"]["outcome"] for session in remote_world.agent.sessions.values()] == ["lost"]
    remote_world.node_is("destroyed")
    remote_world.agent.workspaces.clear()  # what was on it went with it
    remote_world.assert_settled()


def test_who_answers_and_does_not_report_is_lost_too(remote_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that hears us and can't reach us has ended its sessions all the same."""
    task = running(remote_world)
    remote_world.plan.beating = False
    monkeypatch.setattr(remote_world.agent, "send", lambda *_: None)
    remote_world.run_for(340.0)
    assert remote_world.task(task["id"])["status"] == "in_progress"
    assert remote_world.agent.cut_off
    assert remote_world.finish(task)["error"]["detail"]["by"] == "silence"


@pytest.mark.parametrize("step", ["workspace_ready", "agent_session"])
def test_a_node_that_is_lost_before_the_command_runs_fails_its_task_the_same(remote_world: World, step: str) -> None:
    """Whatever step it is at: the verdict is the node's."""
    world = remote_world
    world.plan.session_s = None
    if step == "workspace_ready":
        world.plan.workspace_s = None

    def cut(run_id: str, name: str) -> None:
        if run_id == task["run_id"] and name == f"perform:{step}":
            world.agent.cut = True

    world.at_checkpoint = cut
    task = world.submit()
    done = world.finish(task)
    assert (done["error"]["code"], done["error"]["detail"]["by"], done["error"]["step"]) == (
        "node_lost",
        "silence",
        step,
    )


def test_a_lost_node_that_can_not_be_destroyed_yet_is_nobodys_place(
    remote_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its provider can't be reached either: it is tried until it can, and everybody goes elsewhere meanwhile."""
    world = remote_world
    task = running(world)
    lost, agent = world.node().id, world.agent
    lost_labels = {agent.order.label}

    def away(server_id: str, *, ask: bool) -> bool:
        raise TransientError("no route to host", code="ssh_unreachable")

    destroy = world.provider.destroy
    monkeypatch.setattr(
        world.provider, "destroy", lambda label, ask: (away if label in lost_labels else destroy)(label, ask=ask)
    )
    agent.cut = True
    assert world.finish(task)["error"]["code"] == "node_lost"
    world.run_for(300.0)
    assert world.service.nodes.show(world.caller, lost)["status"] == "draining"

    world.plan.session_s = 5.0
    agent.heal()  # it comes back, is heard, and is not taken back
    world.run_for(60.0)
    assert world.service.nodes.show(world.caller, lost)["heartbeat_age_s"] < 30.0
    second = world.finish(world.submit())
    assert second["status"] == "completed" and second["node_id"] != lost
    assert "it is draining" in [one["reason"] for one in second["placement"]["rejected"]]
    assert world.service.nodes.show(world.caller, lost)["status"] == "draining"

    lost_labels.clear()
    world.run_until(lambda: world.service.nodes.show(world.caller, lost)["status"] == "destroyed", "it is destroyed")
    agent.workspaces.clear()
    world.assert_settled()


def test_a_provider_that_refuses_to_destroy_a_lost_node_does_not_bring_it_back(
    remote_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is left to a human; its task reads that it is lost all the same, and is cleaned up."""
    task = running(remote_world)

    def refuse(server_id: str, *, ask: bool) -> bool:
        raise PermanentError("this server is protected", code="provider_auth")

    monkeypatch.setattr(remote_world.provider, "destroy", refuse)
    remote_world.agent.cut = True
    done = remote_world.finish(task)
    assert done["error"]["code"] == "node_lost"
    assert remote_world.node().status == "error"
    assert remote_world.node().error["detail"]["refused"]["message"] == "this server is protected"
    assert remote_world.count(Workspace, Workspace.released_at.is_(None)) == 0


def test_who_is_heard_of_while_the_verdict_is_written_lives(world: World) -> None:
    """Two signs were read, then a heartbeat came: it counts."""
    task = running(world)
    agent = world.agent
    agent.alive = False
    world.provider.states[agent.order.label] = "stopped"
    node_run, back = world.node().run_id, list[float]()

    def come_back(run_id: str, name: str) -> None:
        stale = time.time() - world.node().last_heartbeat_at > world.settings.heartbeat_stale_s
        if run_id == node_run and name == "performed:active" and stale and not back:
            back.append(time.time())
            agent.alive = True
            world.provider.states[agent.order.label] = "running"
            agent.boot()

    world.at_checkpoint = come_back
    world.run_until(lambda: back, "a verdict is about to be written")
    world.run_for(100.0)
    assert (world.node().status, world.task(task["id"])["status"]) == ("active", "in_progress")
    agent.finish_session(next(iter(agent.sessions)))
    assert world.finish(task)["status"] == "completed"


def test_a_session_at_its_time_limit_on_a_node_that_is_not_heard_of_has_not_failed(remote_world: World) -> None:
    """Its report comes with the link."""
    task = running(remote_world, time_limit_s=100.0)
    remote_world.run_for(80.0)
    agent = remote_world.agent
    agent.cut = True
    remote_world.run_for(60.0)
    agent.finish_session(next(iter(agent.sessions)))
    remote_world.run_for(120.0)
    assert remote_world.task(task["id"])["status"] == "in_progress"
    agent.heal()
    assert remote_world.finish(task)["status"] == "completed"
    remote_world.assert_settled()


def test_a_result_of_a_lost_node_is_kept_and_that_it_was_cut_off_is_none(
    make_remote_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session ended well while the link was down: offered. That its node ended it is no result."""
    world = make_remote_world()
    first, second = running(world), running(world)
    done, lost = world.agent.sessions
    workspace = world.agent.sessions[done]["workspace_id"]
    caller = world.service.accounts.authenticate(world.agent.workspaces[workspace]["token"], "workspace")
    monkeypatch.setattr(world.provider, "destroy", lambda server_id, **_: False)
    world.agent.cut = True
    world.agent.finish_session(done)
    world.finish(first, second)
    world.agent.heal()

    results = {task["id"]: world.task(task["id"])["late_result"] for task in (first, second)}
    assert [result and result["commit"] for result in results.values()] == ["c0ffee", None]
    again = outcome(**world.agent.sessions[done]["outcome"])
    assert world.service.callbacks.session_outcome(caller, workspace, done, again)["late"]
    assert lost != done
