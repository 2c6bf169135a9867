"""Rows against servers: what is deleted, and everything that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Node
from taskflow.errors import PermanentError, StepError
from taskflow.nodes.audit import differences
from taskflow.nodes.providers.base import Server
from taskflow.nodes.providers.hetzner import INSTALLATION_LABEL, HetznerProvider
from tests.support.fake_cloud import FakeCloud
from tests.support.virtual import FollowingClock
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

FILE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "1"
offer = [{size = "size-s", location = "place-1", vcpus = 2, memory_mb = 4000, slots = 2, price_per_hour = 0.5}]
"""
HOUR = 3600.0


def server(label: str, server_id: str = "1", **more: Any) -> Server:
    """A server that was made a second ago."""
    return Server(server_id, label, more.pop("state", "running"), size="size-s", created_at=999.0, **more)


def node(**more: Any) -> Any:
    """A node in use."""
    given = {
        "id": "node-1", "status": "active", "server_id": "1", "bought_at": 0.0, "destroyed_at": None,
        "price_per_hour": 0.5,
    }  # fmt: skip
    return SimpleNamespace(**{**given, **more})


@pytest.mark.parametrize(
    ("servers", "nodes", "kinds"),
    [
        ([server("a")], {"a": node()}, []),
        ([server("a")], {}, ["orphan"]),
        ([server("a")], {"a": node(destroyed_at=500.0)}, ["orphan"]),
        ([server("a", "2")], {"a": node()}, ["orphan"]),
        ([server("a")], {"a": node(server_id=None, status="creating")}, []),
        ([server("a", state="stopped")], {"a": node()}, ["stopped"]),
        ([server("a", state="stopped")], {"a": node(status="awaiting_agent")}, []),
        ([], {"a": node()}, ["missing"]),
        ([], {"a": node(bought_at=990.0)}, []),
        ([], {"a": node(server_id=None)}, []),
        ([], {"a": node(destroyed_at=500.0)}, []),
    ],
)
def test_each_disagreement_has_a_kind(servers: list[Server], nodes: dict[str, Any], kinds: list[str]) -> None:
    """And what agrees, or may only be late, has none."""
    found = differences("cloud", servers, nodes, {"size-s": 0.5}, now=1000.0, settle_s=60.0)
    assert [one.kind for one in found] == kinds
    assert all(one.price_per_hour == 0.5 for one in found)


@pytest.fixture
def place(make_world: MakeWorld, tmp_path: Path) -> Iterator[tuple[World, FakeCloud]]:
    """A world whose cloud is asked over HTTP."""
    path = tmp_path / "providers.toml"
    path.write_text(FILE)
    world = make_world(providers_file=str(path), public_url="https://control.example")
    with FakeCloud(FollowingClock(world.travel)) as cloud:
        world.cloud = lambda: HetznerProvider(
            "cloud", token=cloud.ledger.token, image="1", installation=world.app.tools.installation,
            clock=cloud.ledger.clock, timeout_s=5.0, api_url=f"http://127.0.0.1:{cloud.port}/v1",
        )  # fmt: skip
        world.start_worker()
        yield world, cloud


def stray(world: World, cloud: FakeCloud, name: str, *, ours: bool = True) -> str:
    """A server that no node has."""
    labels = {INSTALLATION_LABEL: world.app.tools.installation()} if ours else {INSTALLATION_LABEL: "another"}
    return cloud.ledger.create(name, "size-s", "place-1", "", labels).server_id


def test_an_orphan_is_deleted_when_it_is_old_enough(place: tuple[World, FakeCloud]) -> None:
    """Younger ones may be a purchase that nobody has written down yet; another installation's are not seen."""
    world, cloud = place
    stray(world, cloud, "tf-old")
    theirs = stray(world, cloud, "tf-theirs", ours=False)
    assert world.app.sweep("delete_orphans") == {"orphan": 1, "missing": 0, "stopped": 0, "deleted": 0}
    world.run_for(HOUR + 1)
    young = stray(world, cloud, "tf-young")
    assert world.app.sweep("delete_orphans")["deleted"] == 1
    assert {one.server_id for one in cloud.ledger.alive()} == {theirs, young}


def test_no_more_than_a_few_are_deleted_at_once(place: tuple[World, FakeCloud]) -> None:
    """A mistake in the proof must not empty an account."""
    world, cloud = place
    for number in range(8):
        stray(world, cloud, f"tf-{number}")
    world.run_for(HOUR + 1)
    assert world.app.sweep("delete_orphans")["deleted"] == 5
    assert len(cloud.ledger.alive()) == 3


def test_a_listing_that_fails_deletes_nothing_and_is_no_success(place: tuple[World, FakeCloud]) -> None:
    """A page that was not read is not a page without servers."""
    world, cloud = place
    stray(world, cloud, "tf-old")
    world.run_for(HOUR + 1)
    cloud.faults.outages = 1
    with pytest.raises(StepError, match="not every provider could be asked"):
        world.app.sweep("delete_orphans")
    assert len(cloud.ledger.alive()) == 1
    sweeps = {row["name"]: row for row in world.service.health.sweeps()}
    assert (sweeps["delete_orphans"]["last_success_at"], sweeps["delete_orphans"]["failures"]) == (None, 1)


def test_a_server_whose_node_came_to_need_it_meanwhile_is_left_alone(
    place: tuple[World, FakeCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides are read again right before the deletion."""
    world, cloud = place
    world.plan.session_s = None
    world.provider.name = "local"
    server_id = stray(world, cloud, "tf-of-a-node")
    world.run_for(HOUR + 1)
    provider = world.app.tools.providers["cloud"]
    before = provider.get

    def adopted(asked: str) -> Server | None:
        # Between the listing and the deletion a node with this label turns up.
        task = world.submit()
        world.app.runner.turn(task["run_id"])
        values = update(Node).values(label="tf-of-a-node", server_id=server_id, provider="cloud")
        world.app.database.write(lambda tx: tx.execute(values))
        return before(asked)

    monkeypatch.setattr(provider, "get", adopted)
    assert world.app.sweep("delete_orphans")["deleted"] == 0
    assert len(cloud.ledger.alive()) == 1


def test_the_audit_lists_each_difference_with_its_cost_and_changes_nothing(place: tuple[World, FakeCloud]) -> None:
    """A provider that can't be asked is named."""
    world, cloud = place
    server_id = stray(world, cloud, "tf-old")
    (found,) = world.service.providers.audit()["differences"]
    assert (found["kind"], found["server_id"], found["price_per_hour"]) == ("orphan", server_id, 0.5)
    assert len(cloud.ledger.alive()) == 1
    cloud.faults.outages = 1
    assert list(world.service.providers.audit()["failed"]) == ["cloud"]


def test_a_node_in_error_is_destroyed_once_its_provider_lets_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again by itself, ever more rarely; until then it is shown as what it is."""
    world.finish(world.submit())

    def refused(server_id: str) -> bool:
        raise PermanentError("the server is protected", code="provider_invalid")

    with monkeypatch.context() as broken:
        broken.setattr(world.provider, "destroy", refused)
        world.service.nodes.drain(world.caller, world.node().id)
        world.node_is("error")
        assert world.app.sweep("retry_error_nodes") == {"in_error": 1, "tried_again": 0}
        world.run_for(601.0)
        assert world.app.sweep("retry_error_nodes")["tried_again"] == 1
        world.run_for(60.0)
        assert world.node().status == "error"
        world.run_for(601.0)
        assert world.app.sweep("retry_error_nodes")["tried_again"] == 0  # twice as long now
    world.run_for(700.0)
    assert world.app.sweep("retry_error_nodes")["tried_again"] == 1
    world.node_is("destroyed")
    assert world.app.sweep("retry_error_nodes") == {"in_error": 0, "tried_again": 0}
