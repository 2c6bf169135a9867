"""A session that its living node does not know any more is lost by two signs: heartbeats, and its agent's own word."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from taskflow import protocol
from tests.support.world import World

ASKED = ("GET", "/sessions/")


def running(world: World) -> dict[str, Any]:
    """A task whose command runs until the test ends it."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    return task


def silent(world: World, monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> None:
    """Its heartbeats name no session while ``until`` says so; what it is asked it answers as ever."""
    agent, beat = world.agent, world.agent.beat
    monkeypatch.setattr(agent, "beat", lambda: {**beat(), "sessions": [] if until() else beat()["sessions"]})


def test_a_session_that_its_agent_knows_no_more_is_lost_within_minutes(world: World) -> None:
    """The agent lives and has lost what it kept: nobody would ever report the end, and the limit is hours away."""
    task = running(world)
    world.agent.sessions.clear()
    began = time.time()
    done = world.finish(task)
    error = done["error"]
    assert (done["status"], error["code"], error["step"]) == ("failed", "session_lost", "running")
    assert "does not know the session" in error["message"] and "taskflow rerun" in error["advice"]
    settings = world.settings
    assert time.time() - began < 2 * settings.heartbeat_interval_s + 2 * settings.liveness_poll_s
    assert world.wire.made(*ASKED) == 1
    world.assert_settled()


def test_heartbeats_alone_end_no_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They don't name it, and its agent says that it runs: it goes on."""
    task = running(world)
    silent(world, monkeypatch, lambda: True)
    world.run_for(300.0)
    assert world.wire.made(*ASKED) > 0
    assert world.task(task["id"])["status"] == "in_progress"
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["status"] == "completed"


@pytest.mark.parametrize("answer", ["none", "refusal"])
def test_an_agent_that_says_nothing_about_it_ends_no_session(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """No answer, or one that is about something else, is no second sign."""
    task = running(world)
    silent(world, monkeypatch, lambda: True)

    def away(method: str, path: str) -> Any:
        if method != "GET":
            return None
        if answer == "none":
            raise requests.ConnectTimeout("no route")
        return 401, {"code": "unauthorized", "message": "no"}

    world.wire.before = away
    world.run_for(300.0)
    assert world.task(task["id"])["status"] == "in_progress"
    assert world.errors(task["run_id"]) == []


def test_an_agent_that_started_again_and_found_its_session_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One heartbeat without it, before it was found again, is no sign at all."""
    task = running(world)
    last = world.node().last_heartbeat_at
    seen: list[float] = []

    def once() -> bool:
        seen.append(time.time())
        return len(set(seen)) == 1

    silent(world, monkeypatch, once)
    world.run_until(lambda: world.node().last_heartbeat_at > last, "it beats without the session")
    assert world.node().heartbeat["sessions"] == []
    world.run_for(300.0)
    assert world.node().heartbeat["sessions"]
    assert world.wire.made(*ASKED) == 0
    assert world.task(task["id"])["status"] == "in_progress"


def test_an_older_agent_that_says_nothing_of_sessions_is_not_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats lack the field: that is no word about any session."""
    task = running(world)
    agent, beat = world.agent, world.agent.beat

    def older() -> dict[str, Any]:
        return protocol.load(protocol.HeartbeatSchema, {k: v for k, v in beat().items() if k != "sessions"})

    monkeypatch.setattr(agent, "beat", older)
    world.run_for(300.0)
    assert world.wire.made(*ASKED) == 0
    assert world.task(task["id"])["status"] == "in_progress"
    agent.finish_session(next(iter(agent.sessions)))
    assert world.finish(task)["status"] == "completed"


def test_a_session_that_goes_on_is_never_asked_about(world: World) -> None:
    """The looks of an hour cost its agent nothing."""
    task = running(world)
    world.run_for(500.0)
    assert world.wire.made(*ASKED) == 0
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["status"] == "completed"


def test_an_end_that_is_not_reported_yet_is_waited_for(world: World) -> None:
    """What has ended is not named, and its output may still be on the way: its agent knows it."""
    task = running(world)
    session_id = next(iter(world.agent.sessions))
    world.agent.finish_session(session_id, tell=False)
    world.run_for(200.0)
    assert world.wire.made(*ASKED) > 0
    assert world.task(task["id"])["status"] == "in_progress"
