"""Slots: never more than there are, never one lost, and who waits is woken."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from taskflow.db.models import Workspace
from taskflow.db.tasks import task_of_run
from taskflow.db.waiting import give_place
from taskflow.nodes.providers.base import OrderInvalid
from tests.support.world import RESCUE_EVERY_S, World
from tests.support.world_fixtures import MakeWorld


def test_nine_tasks_on_one_node_of_four_slots_all_complete(world: World) -> None:
    """Each gets its turn, the node never holds more than its slots, and no second node is made."""
    tasks = [world.submit(title=f"task {n}") for n in range(9)]

    world.finish(*tasks)

    assert {world.task(task["id"])["status"] for task in tasks} == {"completed"}
    assert world.agent.most_workspaces == 4
    assert len(world.provider.bought) == 1
    world.assert_settled()


def test_who_waits_for_capacity_is_woken_by_the_release(make_world: MakeWorld) -> None:
    """A released slot rings a waiting task; it does not sit out its poll."""
    world = make_world(node_slots=1, capacity_poll_s=3000.0)
    world.plan.session_s = None
    first = world.submit()
    world.at_step(first, "running")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    world.run_for(60)

    world.agent.finish_session(next(iter(world.agent.sessions)))

    took_s = world.run_until(lambda: world.task(second["id"])["step"] == "running", "the waiting task runs")
    assert took_s <= world.plan.workspace_s + 1  # type: ignore[operator]


def test_a_release_whose_worker_dies_wakes_who_waits_all_the_same(make_world: MakeWorld) -> None:
    """The signal is part of the release: nobody sits out a poll because the one who would ring is dead."""
    world = make_world(node_slots=1, capacity_poll_s=3000.0)
    first = world.submit()
    world.at_step(first, "running")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    world.crash_at("applied:cleanup", first["run_id"])
    world.finish(first)

    took_s = world.run_until(lambda: world.task(second["id"])["step"] == "running", "the waiting task runs")

    assert world.crashes == ["applied:cleanup"]
    assert took_s <= RESCUE_EVERY_S + world.plan.workspace_s + 1  # type: ignore[operator]


def test_the_release_wakes_the_one_with_the_higher_priority(make_world: MakeWorld) -> None:
    """The best claim is rung first: priority, then the longest wait."""
    world = make_world(node_slots=1, capacity_poll_s=3000.0)
    first = world.submit()
    world.at_step(first, "running")
    low, high = world.submit(priority=0), world.submit(priority=5)
    for task in (low, high):
        world.at_step(task, "waiting_for_capacity")

    world.run_until(lambda: world.task(high["id"])["step"] == "running", "the important one runs")

    assert world.task(low["id"])["step"] == "waiting_for_capacity"


def test_a_wait_for_capacity_has_an_end(make_world: MakeWorld) -> None:
    """After the admission wait the task fails and says what it was doing."""
    world = make_world(node_slots=1, admission_wait_s=100.0)
    world.plan.session_s = None
    world.at_step(world.submit(), "running")
    second = world.submit()

    error = world.finish(second)["error"]

    assert (error["code"], error["step"]) == ("step_timeout", "waiting_for_capacity")


def test_waits_of_one_run_are_counted_together(make_world: MakeWorld) -> None:
    """Sent back because its place was taken, the task goes on with the wait that it began; a rerun begins anew."""
    world = make_world(node_slots=1, admission_wait_s=600.0)
    world.plan.session_s = None
    first = world.submit()
    world.at_step(first, "running")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    until, began = world.why(second["id"])["until"], time.time()
    world.run_for(300.0)

    with_place = world.task(first["id"])["node_id"]

    def give(tx: Connection) -> None:
        waits = task_of_run(tx, second["run_id"])
        assert waits is not None
        give_place(tx, waits, with_place, {"reason": "given"}, time.time())

    world.app.database.write(give)
    world.app.ringer.ring([second["run_id"]])
    world.run_until(lambda: world.steps(second["id"]).count("waiting_for_capacity") == 2, "it waits again")

    assert world.why(second["id"])["until"] == until
    error = world.finish(second)["error"]
    assert (error["code"], error["step"]) == ("step_timeout", "waiting_for_capacity")
    assert 590.0 < time.time() - began < 620.0
    world.service.tasks.rerun(world.caller, second["id"])
    world.at_step(second, "waiting_for_capacity")
    assert world.why(second["id"])["until"] > until


def test_a_place_that_was_taken_meanwhile_is_chosen_again(make_world: MakeWorld) -> None:
    """Between choosing and taking, somebody else takes the last slot: the loser chooses again and waits."""
    world = make_world(node_slots=1)
    world.finish(world.submit())
    world.node_is("warm")
    loser, winner = world.submit(), world.submit()

    def overtake(run_id: str, name: str) -> None:
        if run_id == loser["run_id"] and name == "performed:node_selection" and not world.steps(winner["id"]):
            world.app.runner.turn(winner["run_id"])

    world.at_checkpoint = overtake
    world.finish(loser, winner)

    assert world.steps(loser["id"])[:3] == ["workspace_creation", "node_selection", "waiting_for_capacity"]
    assert world.task(loser["id"])["status"] == "completed"
    assert world.agent.most_workspaces == 1
    world.assert_settled()


def test_a_named_node_is_a_hard_requirement(world: World) -> None:
    """A node that does not exist is not replaced by another."""
    task = world.submit(node_id="node-unknown")

    done = world.finish(task)

    assert (done["status"], done["error"]["code"]) == ("failed", "node_unusable")
    assert "there is no node node-unknown" in done["error"]["message"]
    assert world.provider.bought == {}


def test_a_named_node_may_be_replaced_when_its_user_allows_it(world: World) -> None:
    """With the fallback allowed the task runs elsewhere, and says so."""
    done = world.finish(world.submit(node_id="node-unknown", allow_node_fallback=True))
    assert done["status"] == "completed"
    assert done["placement"]["instead_of"] == "node-unknown"


def test_a_full_node_is_not_waited_for_where_another_one_is_allowed(make_world: MakeWorld) -> None:
    """It is busy for hours, and a further one may be made: the task runs there at once."""
    world = make_world(node_slots=1, local_nodes_max=2)
    world.plan.session_s = None
    holder = world.submit()
    world.at_step(holder, "running")
    name = world.task(holder["id"])["node_id"]
    task = world.submit(node_id=name, allow_node_fallback=True)
    world.at_step(task, "running")
    found = world.task(task["id"])
    assert found["node_id"] not in (None, name)
    assert found["placement"]["reason"] == f"instead of {name}: no node with room"
    assert found["placement"]["rejected"] == [{"node_id": name, "reason": "1 of 1 slots are taken"}]


def test_a_named_node_with_room_is_used_and_a_full_one_waited_for(make_world: MakeWorld) -> None:
    """Naming a node means that one, now or later; the stored reason says so."""
    world = make_world(node_slots=1)
    world.finish(world.submit())
    name = world.node().id
    first, second = world.submit(node_id=name), world.submit(node_id=name)
    world.at_step(second, "waiting_for_capacity")
    assert world.task(second["id"])["placement"]["reason"].startswith("the node that was asked for")

    world.finish(first, second)

    assert {world.task(task["id"])["node_id"] for task in (first, second)} == {name}


def test_another_owners_node_is_not_used(world: World) -> None:
    """Nodes belong to owners: a stranger's task never lands on one, nor learns that it exists."""
    world.finish(world.submit())
    mine = world.node().id
    stranger = world.caller_of("bob")
    task = world.service.tasks.submit(
        stranger, {"repository": "/r", "command": ["true"], "node_id": mine, "time_limit_s": 60.0}
    )[0]

    world.run_until(lambda: world.service.tasks.get(stranger, task["id"])["finished"], "it fails")

    assert world.service.tasks.get(stranger, task["id"])["error"]["code"] == "node_unusable"
    assert world.count(Workspace, Workspace.task_id == task["id"]) == 0


def test_a_node_that_can_never_be_made_fails_the_task_with_the_providers_words(world: World) -> None:
    """The user reads why there is no node, not that a wait ended."""
    world.provider.refuse = OrderInvalid("there is no image debian-99")
    done = world.finish(world.submit())

    assert done["error"]["code"] == "node_failed"
    assert "there is no image debian-99" in done["error"]["message"]
    assert done["error"]["detail"]["node_error"]["code"] == "provider_invalid"
    world.assert_settled()


def test_a_node_whose_agent_never_reports_ends_task_and_node(make_world: MakeWorld) -> None:
    """Waiting for an agent has a limit; the server that was bought for it is destroyed."""
    world = make_world(agent_ready_timeout_s=60.0)
    world.plan.boot_s = None
    done = world.finish(world.submit())

    assert (done["status"], done["error"]["step"]) == ("failed", "node_agent_ready")
    world.node_is("destroyed")
    assert world.provider.inventory() == []
    world.assert_settled()


def test_a_claim_just_before_the_warm_time_ends_keeps_the_node(world: World) -> None:
    """The node's turn has decided to drain; the claim is written first, so the drain is refused."""
    world.finish(world.submit())
    world.node_is("warm")
    node, claimed = world.node(), list[str]()

    def claim(run_id: str, name: str) -> None:
        if (run_id, name) == (node.run_id, "performed:warm") and time.time() >= node.warm_until and not claimed:
            claimed.append(world.submit()["id"])
            world.app.runner.turn(world.task(claimed[0])["run_id"])

    world.at_checkpoint = claim
    world.run_until(lambda: claimed and world.task(claimed[0])["finished"], "the claim's task ends")

    assert world.task(claimed[0])["status"] == "completed"
    assert world.task(claimed[0])["node_id"] == node.id
    assert (world.node().id, world.node().status) in [(node.id, "active"), (node.id, "warm")]
    world.assert_settled()


def test_a_claim_just_after_the_warm_time_ended_gets_another_node(world: World) -> None:
    """The task has chosen the warm node; the drain is written first, so the claim is refused."""
    world.finish(world.submit())
    world.node_is("warm")
    node = world.node()
    task = world.submit()

    def expire(run_id: str, name: str) -> None:
        if (run_id, name) == (task["run_id"], "performed:workspace_creation") and world.node().status == "warm":
            world.travel.shift(max(0.0, node.warm_until - time.time()) + 0.1)
            world.app.runner.turn(node.run_id)

    world.at_checkpoint = expire
    done = world.finish(task)

    assert done["status"] == "completed"
    assert done["node_id"] != node.id
    world.assert_settled()


def test_what_a_task_reserves_goes_to_its_node_with_its_workspace(world: World) -> None:
    """The node holds the workspace to it; what nobody reserved is no limit."""
    for spec, limits in (
        ({"resources": {"vcpus": 1.0, "memory_mb": 64}}, {"vcpus": 1.0, "memory_mb": 64, "processes": None}),
        ({}, {"vcpus": None, "memory_mb": None, "processes": None}),
    ):
        task = world.submit(**spec)
        world.run_until(
            lambda: any(agent.workspaces for agent in world.provider.agents.values()), "its workspace is ordered"
        )
        (ordered,) = [known for agent in world.provider.agents.values() for known in agent.workspaces.values()]
        assert ordered["content"]["limits"] == limits
        world.finish(task)
