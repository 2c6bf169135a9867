"""The node machine: bought once, claimed or expired, destroyed for sure."""

from __future__ import annotations

import itertools
import time

import pytest

from taskflow.errors import PermanentError, TransientError
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

STEPS = ("order_server", "create_server", "await_agent", "active", "warm", "drain", "destroy_server")
PLACES = ("perform", "performed", "applied", "committed")


def test_every_step_of_the_table_is_in_the_matrix(world: World) -> None:
    """A step that is added has to say how it survives a crash."""
    assert [step.name for step in world.app.pipelines["node"].steps] == list(STEPS)


@pytest.mark.parametrize(
    ("step", "place"), [one for one in itertools.product(STEPS, PLACES) if one != ("order_server", "committed")]
)
def test_a_crash_at_any_place_buys_one_server_and_destroys_it(make_world: MakeWorld, step: str, place: str) -> None:
    """The label is looked up before anything is bought, so a crash after buying finds the server."""
    # Redis is not told of every step of a turn: only where each is a turn of its own can a worker die right after.
    world = make_world(turn_max_steps=1 if place == "committed" else 50)
    world.crash_at(f"{place}:{step}")
    task = world.submit()

    assert world.finish(task)["status"] == "completed"
    world.node_is("destroyed")

    assert world.crashes == [f"{place}:{step}"]
    assert list(world.provider.bought.values()) == [1]
    world.assert_settled()


def test_a_drain_waits_for_the_workspaces_that_live(world: World) -> None:
    """Destroying a node in use lets its task end first, and takes no new one."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.service.nodes.drain(world.caller, world.node().id)
    world.node_is("draining")
    world.run_for(100)
    assert "destroy" not in world.provider.calls

    world.agent.finish_session(next(iter(world.agent.sessions)))

    assert world.finish(task)["status"] == "completed"
    world.node_is("destroyed")
    world.assert_settled()


def test_a_drain_does_not_wait_for_workspaces_of_a_dead_node(world: World) -> None:
    """What lived on it is lost with it: its tasks fail, the server goes."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.service.nodes.drain(world.caller, world.node().id)
    world.node_is("draining")
    world.agent.alive = False
    world.provider.states[world.agent.order.label] = "stopped"

    took_s = world.run_until(lambda: world.node().status == "destroyed", "the dead node is destroyed")

    assert took_s < 5 * world.settings.heartbeat_stale_s
    assert world.finish(task)["error"]["code"] == "node_lost"


def test_a_provider_that_can_not_be_asked_condemns_no_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not dead: the agent is silent for a while and nobody can say more, so the task goes on."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")

    def unknown(server_id: str) -> None:
        raise TransientError("nothing here can know", code="no_node_host")

    world.agent.alive = False
    with monkeypatch.context() as patch:
        patch.setattr(world.provider, "get", unknown)
        world.run_for(3 * world.settings.heartbeat_stale_s)
    assert world.node().status == "active"
    world.agent.alive = True
    world.agent.finish_session(next(iter(world.agent.sessions)))

    assert world.finish(task)["status"] == "completed"


def test_a_node_is_destroyed_only_when_the_provider_says_so(world: World) -> None:
    """It is asked for once and looked for until the server is gone; until then it counts."""
    world.finish(world.submit())
    world.provider.destroy_takes = 3
    world.node_is("destroyed")
    assert world.provider.calls[-4:] == ["destroy", "gone?", "gone?", "gone?"]
    assert world.node().destroyed_at is not None


def test_a_provider_that_refuses_to_destroy_leaves_the_node_to_a_human(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status says error, with the provider's words."""
    world.finish(world.submit())

    def refuse(server_id: str, *, ask: bool) -> bool:
        raise PermanentError("this server is protected", code="provider_auth")

    monkeypatch.setattr(world.provider, "destroy", refuse)
    world.node_is("error")
    assert world.node().error["message"] == "this server is protected"


def test_a_node_given_up_takes_no_room_and_can_be_destroyed_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next task gets a node of its own; asking again destroys the one that was left, in a run of its own."""
    world.finish(world.submit())
    given_up = world.node().id

    def refuse(server_id: str, *, ask: bool) -> bool:
        raise PermanentError("this server is protected", code="provider_auth")

    with monkeypatch.context() as patch:
        patch.setattr(world.provider, "destroy", refuse)
        world.node_is("error")
    assert world.finish(world.submit())["node_id"] != given_up

    world.service.nodes.drain(world.caller, given_up)

    def gone() -> bool:
        rows = world.service.nodes.list(world.caller, with_destroyed=True)
        return next(row for row in rows if row["id"] == given_up)["status"] == "destroyed"

    world.run_until(gone, "the node that was given up is destroyed")


def test_a_short_visit_begins_the_warm_time_anew(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that came and went between two looks of the node's runner still counts as use."""
    world = make_world()
    world.finish(world.submit())
    world.node_is("warm")
    first_end = world.node().warm_until
    world.run_for(100)
    task = world.submit()
    # The rings to the node's runner get lost, so it sees the node only when the visit is over.
    node_run, ring = world.node().run_id, world.app.ringer.ring
    with monkeypatch.context() as patch:
        patch.setattr(world.app.ringer, "ring", lambda run_ids: ring([one for one in run_ids if one != node_run]))
        world.finish(task)

    world.node_is("destroyed")

    assert world.node().destroyed_at > first_end + world.settings.node_warm_s / 2


def test_a_dead_node_is_replaced(world: World) -> None:
    """An idle node that died is destroyed, and the next task gets another."""
    world.finish(world.submit())
    world.node_is("warm")
    world.agent.alive = False
    world.provider.states[world.agent.order.label] = "stopped"
    world.node_is("destroyed")
    assert world.finish(world.submit())["status"] == "completed"
    assert len(world.provider.bought) == 2


def test_a_server_that_went_away_before_its_agent_came_up_is_not_waited_for(world: World) -> None:
    """The provider says that it is destroyed: the quarter of an hour an agent may take is not spent on it."""
    world.plan.boot_s = None
    task = world.submit()
    world.node_is("awaiting_agent")
    world.provider.states[world.node().label] = "destroyed"
    began = time.time()

    done = world.finish(task)

    assert (done["status"], done["error"]["code"]) == ("failed", "node_failed")
    assert world.errors(world.node().run_id) == ["server_gone"]
    assert time.time() - began < world.settings.agent_ready_timeout_s / 10
    world.assert_settled()


def test_who_is_on_a_node_or_waits_for_it_hears_at_once_that_it_is_gone(make_world: MakeWorld) -> None:
    """Neither the task on a dead node nor the one that waits for its slot sits out its poll."""
    world = make_world(node_slots=1, capacity_poll_s=3000.0, liveness_poll_s=3000.0)
    world.plan.session_s = None
    first = world.submit()
    world.at_step(first, "running")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    world.agent.alive = False
    world.provider.states[world.agent.order.label] = "destroyed"
    world.node_is("destroyed")
    world.agent.workspaces.clear()  # what was on it went with it
    gone = time.time()
    world.plan.session_s = 5.0

    assert world.finish(first)["error"]["code"] == "node_lost"
    assert world.finish(second)["status"] == "completed"
    assert time.time() - gone < 120
    world.assert_settled()
