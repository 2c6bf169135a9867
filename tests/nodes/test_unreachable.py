"""A node that is not heard of: known at once, asked about at once, given no new work, and no verdict by itself."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from taskflow.db.models import Event
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def _events(world: World, kind: str) -> list[Any]:
    with world.app.database.read() as tx:
        return list(tx.execute(select(Event.__table__).where(Event.kind == kind).order_by(Event.id)).all())


def _silent(world: World) -> dict[str, Any]:
    """A task runs on a node whose agent stopped reporting just now."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.run_for(30.0)
    world.plan.beating = False
    return task


def test_a_late_heartbeat_is_noticed_within_its_interval_and_the_grace(world: World) -> None:
    """Agent and provider are asked at once; what they said is in the node's history, and the task's state is unknown."""
    task = _silent(world)
    limit_s = world.settings.heartbeat_interval_s + world.settings.heartbeat_grace_s

    took_s = world.run_until(lambda: world.node().unreachable_since, "it is noticed")

    assert took_s <= limit_s + 1.0
    (event,) = _events(world, "unreachable")
    assert event.data == {"agent_answers": True, "server_state": "running"}
    assert "unknown since" in world.why(task["id"])["summary"]
    assert world.task(task["id"])["status"] == "in_progress"


def test_an_unreachable_node_gets_no_new_work_until_it_is_heard_of(make_world: MakeWorld) -> None:
    """Who waits for it is given its place the moment it reports."""
    world = make_world(capacity_poll_s=3000.0)
    _silent(world)
    world.run_until(lambda: world.node().unreachable_since, "it is noticed")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    world.run_for(20.0)
    assert world.task(second["id"])["step"] == "waiting_for_capacity"

    world.plan.beating = True

    took_s = world.run_until(lambda: world.task(second["id"])["step"] == "running", "the second runs")
    assert took_s <= world.settings.heartbeat_interval_s + 5.0
    assert world.node().unreachable_since is None
    assert [event.kind for event in _events(world, "reachable")] == ["reachable"]


def test_silence_that_ends_in_time_costs_no_task(world: World) -> None:
    """The session reports its outcome, and the task completes as if nothing had been."""
    task = _silent(world)
    world.run_until(lambda: world.node().unreachable_since, "it is noticed")
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["status"] == "completed"
    world.plan.beating = True
    world.run_until(lambda: world.node().unreachable_since is None, "it is heard of again")
    world.assert_settled()
