"""Nodes whose agents are of an old release, and those that are old themselves: they end their work, and go."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from taskflow.db.models import Event
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def report_as(world: World, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """The newest node's agent reports with these fields."""
    beat = world.agent.beat
    monkeypatch.setattr(world.agent, "beat", lambda: {**beat(), **fields})


@pytest.mark.parametrize("fields", [{"agent_version": "0.0.1"}, {"protocol_version": 1}])
def test_a_node_of_another_release_ends_its_work_and_goes(
    remote_world: World, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """No kill: its task completes there, the next one goes to a new node, and its history says why."""
    world = remote_world
    world.plan.session_s = None
    first = world.submit()
    world.at_step(first, "running")
    old, agent = world.node(), world.agent
    report_as(world, monkeypatch, **fields)
    world.run_for(30.0)

    second = world.submit()
    world.at_step(second, "running")
    assert world.task(second["id"])["node_id"] != old.id
    agent.finish_session(next(iter(agent.sessions)))
    assert world.finish(first)["status"] == "completed"

    world.run_until(
        lambda: world.service.nodes.show(world.caller, old.id)["status"] == "destroyed", "the old node goes"
    )
    with world.app.database.read() as tx:
        said = [
            row.data.get("reason") or "" for row in tx.execute(select(Event.data).where(Event.subject_id == old.id))
        ]
    assert any("its agent" in one for one in said)
    assert world.node().status == "active"


def test_an_idle_node_of_another_release_goes_at_once(remote_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its warm time is not waited for."""
    remote_world.finish(remote_world.submit())
    remote_world.node_is("warm")
    report_as(remote_world, monkeypatch, agent_version="0.0.1")
    took_s = remote_world.run_until(lambda: remote_world.node().status != "warm", "it goes")
    assert took_s < remote_world.settings.node_warm_s / 2


@pytest.mark.parametrize(
    ("fields", "goes"),
    [({"protocol_version": 1}, True), ({"agent_version": "0.0.1"}, False), ({"protocol_version": 9}, False)],
)
def test_a_node_that_somebody_keeps_goes_only_where_nothing_could_run_on_it(
    make_remote_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], goes: bool
) -> None:
    """An agent of an older protocol gets no work, so the node would be paid for in vain; of another release it works on. A
    newer protocol is that of a release that is being rolled out, and of a node that was just ordered through it."""
    world = make_remote_world(node_max_life_s=60.0)
    node, _ = world.service.nodes.add(world.caller, {"provider": "cloud"})
    world.node_is("warm")
    report_as(world, monkeypatch, **fields)
    world.run_for(120.0)
    found = world.service.nodes.show(world.caller, node["id"])
    assert found["kept"] and found["status"] == ("destroyed" if goes else "warm")
    if goes:
        said = [one["data"].get("reason") for one in world.service.events.of_node(world.caller, node["id"], limit=100)]
        assert any(one and one.startswith("its agent speaks protocol 1, this release") for one in said)


def test_the_work_on_a_kept_node_of_another_protocol_ends_before_it_goes(
    remote_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on any other one: nothing is killed."""
    world = remote_world
    world.plan.session_s = None
    node, _ = world.service.nodes.add(world.caller, {"provider": "cloud"})
    task = world.submit(node_id=node["id"])
    world.at_step(task, "running")
    report_as(world, monkeypatch, protocol_version=1)
    world.run_for(120.0)
    assert world.service.nodes.show(world.caller, node["id"])["status"] == "active"
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["status"] == "completed"
    world.node_is("destroyed")


@pytest.mark.parametrize("case", ["local", "switched off"])
def test_a_version_matters_only_where_it_is_asked_for(
    make_world: MakeWorld, make_remote_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """This machine's agent is started again with the stack; elsewhere the setting decides."""
    world = make_world() if case == "local" else make_remote_world(agent_upgrade=False)
    world.finish(world.submit())
    world.node_is("warm")
    report_as(world, monkeypatch, agent_version="0.0.1")
    world.run_for(60.0)
    assert world.node().status == "warm"


def test_a_node_that_lived_long_enough_ends_its_work_and_goes(make_remote_world: MakeWorld) -> None:
    """Never with work on it; the next task goes to a fresh one, and reads why not to the old one."""
    world = make_remote_world(node_max_life_s=300.0)
    world.plan.session_s = None
    first = world.submit()
    world.at_step(first, "running")
    old, agent = world.node(), world.agent
    world.run_for(400.0)
    assert world.node().status == "active"

    second = world.submit()
    world.at_step(second, "running")
    placement = world.task(second["id"])["placement"]
    assert world.task(second["id"])["node_id"] != old.id
    assert any("300 s is the most" in one["reason"] for one in placement["rejected"])
    agent.finish_session(next(iter(agent.sessions)))
    assert world.finish(first)["status"] == "completed"
    world.run_until(
        lambda: world.service.nodes.show(world.caller, old.id)["status"] == "destroyed", "the old node goes"
    )
