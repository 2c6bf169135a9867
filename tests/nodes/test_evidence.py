"""The end of its agent's log is kept of a node that failed, and nothing about that holds its destruction up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests

from taskflow.nodes import evidence
from taskflow.protocol import AGENT_LOG, AGENT_LOG_BYTES_MAX
from tests.support.virtual import Crash
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

TOKEN = "tf_" + "a" * 43


def kept(world: World) -> list[dict[str, Any]]:
    """What was kept of the newest node."""
    events = world.service.events.of_node(world.caller, world.node().id, limit=1000)
    return [event["data"] for event in events if event["kind"] == evidence.AGENT_LOG]


def lose(world: World, *, wait: bool = True) -> dict[str, Any]:
    """Lose a node on another machine by its silence, while its agent answers; the task that was on it."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.plan.beating = False
    if wait:
        world.node_is("destroyed")
    return task


def test_the_end_of_its_agents_log_is_in_the_history_of_a_node_that_failed(remote_world: World) -> None:
    """Bounded, without secrets, and as a text that every store can hold."""
    world = remote_world
    long = f"{TOKEN * 5} {'early ' * (AGENT_LOG_BYTES_MAX // 6 - 40)}"
    said = f"{long}late\x00 {TOKEN} https://ada:hidden@host/ \u20ac\ud800\n"
    world.plan.session_s = None
    world.at_step(world.submit(), "running")
    world.agent.log = said
    world.plan.beating = False
    world.node_is("destroyed")
    (found,) = kept(world)
    assert found["log"].endswith("late? *** https://ada:***@host/ \u20ac?\n")
    assert found["log"].startswith("early ") and len(found["log"].encode()) <= AGENT_LOG_BYTES_MAX
    assert world.node().error["code"] == "node_lost"


def test_a_node_whose_agent_never_came_up_says_why_there_is_none(make_world: MakeWorld) -> None:
    """Nobody knows where it would answer."""
    world = make_world(agent_ready_timeout_s=100.0)
    world.plan.boot_s = None
    assert world.finish(world.submit())["status"] == "failed"
    world.node_is("destroyed")
    (found,) = kept(world)
    assert "has not said its address" in found["why"]
    assert world.node().error["code"] == "step_timeout"


def test_who_did_not_answer_a_moment_ago_is_not_asked_again(world: World) -> None:
    """Hundreds of nodes may be lost at once, and each worker has other things to do."""
    world.plan.session_s = None
    world.at_step(world.submit(), "running")
    world.agent.alive = False
    world.provider.states[world.agent.order.label] = "stopped"
    world.node_is("destroyed")
    assert kept(world) == [{"why": "its agent did not answer"}]
    assert world.wire.made("GET", AGENT_LOG) == 0


def test_a_node_that_did_not_fail_is_not_asked(world: World) -> None:
    """It goes because nobody needs it: its history says that."""
    world.finish(world.submit())
    world.node_is("destroyed")
    assert kept(world) == []
    assert world.wire.made("GET", AGENT_LOG) == 0


def _raises(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda: (404, {"code": "not_found", "message": "an older agent"}),
        lambda: (500, {"code": "internal", "message": "no"}),
        lambda: (200, {}),
        lambda: (200, ["log"]),
        lambda: (200, {"log": {"a": 1}}),
        _raises(requests.ReadTimeout("no answer")),
        _raises(ZeroDivisionError("a bug")),
    ],
    ids=["older", "failing", "empty", "no-object", "no-text", "silent", "bug"],
)
def test_what_is_no_log_fails_no_destruction(remote_world: World, answer: Callable[[], Any]) -> None:
    """The node is destroyed as it would be, and keeps the error that it failed with."""
    world = remote_world
    world.wire.before = lambda method, path: answer() if path == AGENT_LOG else None
    lose(world)
    (found,) = kept(world)
    assert set(found) in ({"why"}, {"log"})
    assert world.node().error["code"] == "node_lost"
    assert world.errors(world.node().run_id) == []


def test_an_agent_that_answers_for_ever_is_not_waited_for(remote_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a second would be a connection that lives."""
    monkeypatch.setattr(evidence, "LIMIT_S", 0.05)
    over = threading.Event()
    remote_world.wire.before = lambda method, path: (over.wait(60), None)[1] if path == AGENT_LOG else None
    try:
        lose(remote_world)
    finally:
        over.set()
    assert kept(remote_world) == [{"why": "it was not there within 0.05 s"}]


@pytest.mark.parametrize("place", ["performed", "applied", "committed"])
def test_a_crash_after_it_was_read_keeps_one_and_destroys_the_server(make_remote_world: MakeWorld, place: str) -> None:
    """It is written with the verdict, or not at all: whoever takes over reads it again."""
    world = make_remote_world(turn_max_steps=1 if place == "committed" else 50)

    def crash(run_id: str, name: str) -> None:
        if name.startswith(f"{place}:") and world.wire.made("GET", AGENT_LOG) and not world.crashes:
            raise Crash(name)

    world.at_checkpoint = crash
    task = lose(world)
    assert len(world.crashes) == 1
    assert kept(world) == [{"log": world.agent.log}]
    assert world.finish(task)["error"]["code"] == "node_lost"


def test_who_is_heard_of_meanwhile_goes_on_and_nothing_is_kept_of_it(remote_world: World) -> None:
    """The verdict does not hold, and with it goes what was read for it."""
    world = remote_world

    def heard(method: str, path: str) -> None:
        if path == AGENT_LOG:
            world.plan.beating = True
            world.agent.boot()

    world.wire.after = heard
    lose(world, wait=False)
    world.run_until(lambda: world.wire.made("GET", AGENT_LOG), "it is read")
    world.run_for(20.0)
    assert (world.node().status, world.node().error) == ("warm", None)
    assert kept(world) == []
