"""Each step of the node machine by itself: what it looks at, and where it sends the node's run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from taskflow.db.models import Node, Run
from taskflow.db.runs import to_row
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def decide(world: World, step: str, **columns: Any) -> Outcome:
    """What ``step`` decides for the only node, whose row is given ``columns`` first; nothing is applied."""
    pipeline = world.app.pipelines["node"]
    if columns:
        world.app.database.write(lambda tx: tx.execute(update(Node).values(**columns)))
    with world.app.database.read() as tx:
        row = tx.execute(select(Run.__table__).where(Run.pipeline == "node")).one()
    ctx = StepContext(replace(to_row(row), step=step), (), world.app.control.now(), 1, 1, pipeline)
    found = pipeline.step(step)
    assert found is not None
    return found.perform(ctx)


def goes_to(decision: Outcome) -> str:
    """Where an Advance goes."""
    assert isinstance(decision, Advance), decision
    return decision.step


@pytest.fixture
def ordered(make_world: MakeWorld) -> World:
    """A world whose node is ordered and does not come up."""
    world = make_world()
    world.plan.boot_s = None
    world.at_step(world.submit(), "node_provisioning")
    return world


@pytest.fixture
def busy(world: World) -> World:
    """A world whose node runs, with a session on it."""
    world.plan.session_s = None
    world.at_step(world.submit(), "running")
    return world


def test_order_server_goes_on_to_the_creation(ordered: World) -> None:
    """The intent is in the row; nothing is bought here."""
    before = sum(ordered.provider.bought.values())
    assert goes_to(decide(ordered, "order_server")) == "create_server"
    assert sum(ordered.provider.bought.values()) == before


def test_create_server_finds_what_it_bought_before(busy: World) -> None:
    """A repeat looks the label up and buys nothing more."""
    assert goes_to(decide(busy, "create_server")) == "await_agent"
    assert list(busy.provider.bought.values()) == [1]


def test_await_agent_waits_until_the_agent_reports(busy: World) -> None:
    """Only the agent's own report makes the node active."""
    assert isinstance(decide(busy, "await_agent", agent_ready_at=None), (AwaitSignal, Snooze))
    assert goes_to(decide(busy, "await_agent", agent_ready_at=busy.app.control.now())) == "active"


def test_active_stays_while_a_workspace_lives(busy: World) -> None:
    """A node with work on it is not warm."""
    assert isinstance(decide(busy, "active"), AwaitSignal)


def test_active_turns_warm_when_nobody_is_on_it(world: World) -> None:
    """The last one has left."""
    world.finish(world.submit())
    assert goes_to(decide(world, "active", status="active")) == "warm"


def test_warm_waits_and_leaves_when_it_is_claimed(world: World) -> None:
    """A claim turned the row active in its own transaction."""
    world.finish(world.submit())
    world.node_is("warm")
    assert isinstance(decide(world, "warm"), AwaitSignal)
    assert goes_to(decide(world, "warm", status="active")) == "active"


def test_drain_waits_for_those_who_are_there(busy: World) -> None:
    """It takes no new workspace, and ends none."""
    assert isinstance(decide(busy, "drain"), AwaitSignal)


def test_drain_goes_on_when_it_is_empty(world: World) -> None:
    """Nobody is there: the server can go."""
    world.finish(world.submit())
    assert goes_to(decide(world, "drain")) == "destroy_server"


def test_destroy_server_is_done_only_when_the_provider_says_so(world: World) -> None:
    """Asked again until the server is gone."""
    world.finish(world.submit())
    decisions = [decide(world, "destroy_server")]
    while not isinstance(decisions[-1], Done):
        assert isinstance(decisions[-1], Snooze) and len(decisions) < 50
        world.run_for(decisions[-1].seconds)
        decisions.append(decide(world, "destroy_server"))
