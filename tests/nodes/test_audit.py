"""Rows against servers: what is deleted, and everything that is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Node
from taskflow.errors import PermanentError
from taskflow.nodes.audit import differences, unattached
from taskflow.nodes.providers.base import Leftover, Server
from taskflow.nodes.providers.hetzner import INSTALLATION_LABEL, HetznerProvider
from tests.support.fake_cloud import FakeCloud, FakeResource
from tests.support.fake_cloud.ledger import Refusal
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


def test_a_server_that_nobody_prices_has_no_price() -> None:
    """What it costs is not known, which is not nothing."""
    (found,) = differences("cloud", [server("a")], {}, {"size-l": 0.5}, now=1000.0, settle_s=60.0)
    assert found.price_per_hour is None


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
    assert world.app.sweep("delete_orphans") == {
        "orphan": 1, "missing": 0, "stopped": 0, "address": 0, "volume": 0, "done": 0, "failed": 0, "skipped": 0,
    }  # fmt: skip
    world.travel.shift(HOUR + 1)
    young = stray(world, cloud, "tf-young")
    assert world.app.sweep("delete_orphans")["done"] == 1
    assert {one.server_id for one in cloud.ledger.alive()} == {theirs, young}


def test_no_more_than_a_few_are_deleted_at_once(place: tuple[World, FakeCloud]) -> None:
    """A mistake in the proof must not empty an account."""
    world, cloud = place
    for number in range(8):
        stray(world, cloud, f"tf-{number}")
    world.travel.shift(HOUR + 1)
    assert world.app.sweep("delete_orphans")["done"] == 5
    assert len(cloud.ledger.alive()) == 3


def test_a_listing_that_fails_deletes_nothing_and_is_no_success(place: tuple[World, FakeCloud]) -> None:
    """A page that was not read is not a page without servers."""
    world, cloud = place
    stray(world, cloud, "tf-old")
    world.travel.shift(HOUR + 1)
    cloud.faults.outages = 1
    found = world.app.sweep("delete_orphans")
    assert (found["done"], found["failed"]) == (0, 1)
    assert len(cloud.ledger.alive()) == 1
    (shown,) = [row for row in world.service.health.sweeps() if row["name"] == "delete_orphans"]
    assert (shown["last_success_at"], shown["failures"], shown["state"]) == (None, 1, "degraded")
    assert shown["failing"][0]["item"] == "provider cloud"
    assert world.app.sweep("delete_orphans")["done"] == 1
    (shown,) = [row for row in world.service.health.sweeps() if row["name"] == "delete_orphans"]
    assert (shown["failures"], shown["state"], shown["failing"]) == (0, "ok", [])


@pytest.mark.parametrize("collection", ["primary_ips", "floating_ips", "volumes"])
def test_a_listing_of_anything_that_fails_stops_every_deletion_there(
    place: tuple[World, FakeCloud], collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers were listed well; what is wrong with the rest is a doubt about all of it."""
    world, cloud = place
    stray(world, cloud, "tf-old")
    world.travel.shift(HOUR + 1)
    before = cloud.ledger.standing

    def broken(asked: str | None = None) -> list[FakeResource]:
        if asked == collection:
            raise Refusal("outage")
        return before(asked)

    monkeypatch.setattr(cloud.ledger, "standing", broken)
    assert world.app.sweep("delete_orphans")["done"] == 0
    assert len(cloud.ledger.alive()) == 1


def test_the_same_five_that_can_not_be_deleted_keep_no_other_from_its_turn(
    place: tuple[World, FakeCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They rest, ever longer, and the next turn begins after them; the sweep says that it did not do all."""
    world, cloud = place
    protected = {stray(world, cloud, f"tf-{number}") for number in range(5)}
    later = stray(world, cloud, "tf-later")
    world.travel.shift(HOUR + 1)
    before = cloud.ledger.delete

    def delete(server_id: str) -> bool:
        if server_id in protected:
            raise Refusal("invalid")
        return before(server_id)

    monkeypatch.setattr(cloud.ledger, "delete", delete)
    found = world.app.sweep("delete_orphans")
    assert (found["done"], found["failed"]) == (0, 5)
    found = world.app.sweep("delete_orphans")
    assert (found["done"], found["failed"], found["skipped"]) == (1, 0, 5)
    assert {one.server_id for one in cloud.ledger.alive()} == protected
    for _ in range(6):  # until they rest as long as the sweep's interval
        world.travel.shift(HOUR + 1)
        world.app.sweep("delete_orphans")
    stray(world, cloud, "tf-yet-later")
    world.travel.shift(HOUR + 1)
    world.app.sweep("delete_orphans")
    world.travel.shift(HOUR + 1)
    world.app.sweep("delete_orphans")
    assert {one.server_id for one in cloud.ledger.alive()} == protected
    said = {one["check"]: one for one in world.service.health.doctor()}["sweep delete_orphans"]
    assert said["state"] == "warning" and f"cloud/{min(protected)}" in said["says"]
    assert later not in protected


def test_an_orphan_whose_deletion_is_accepted_and_never_happens_is_an_alarm(place: tuple[World, FakeCloud]) -> None:
    """An answer is not a deletion: at the next look it is a failure, until it is gone."""
    world, cloud = place
    stray(world, cloud, "tf-old")
    world.travel.shift(HOUR + 1)
    cloud.faults.slow_deletes = 2
    assert world.app.sweep("delete_orphans")["done"] == 1
    world.travel.shift(HOUR)
    found = world.app.sweep("delete_orphans")
    assert (found["done"], found["failed"]) == (0, 1)
    (shown,) = [row for row in world.service.health.sweeps() if row["name"] == "delete_orphans"]
    assert shown["failing"][0]["error"]["code"] == "orphan_remains"
    world.travel.shift(HOUR)
    world.app.sweep("delete_orphans")
    assert cloud.ledger.alive() == []
    world.travel.shift(HOUR)
    found = world.app.sweep("delete_orphans")
    assert (found["orphan"], found["failed"]) == (0, 0)


def test_addresses_and_volumes_that_no_server_has_are_released_once_they_were_seen_so_for_long(
    place: tuple[World, FakeCloud],
) -> None:
    """Somebody may just be moving one, however old it is; what is attached, another's, or named like a node stays."""
    world, cloud = place
    world.travel.shift(10 * HOUR)
    installation = world.app.tools.installation()
    ours, theirs = {INSTALLATION_LABEL: installation}, {INSTALLATION_LABEL: "another"}
    for collection in ("primary_ips", "floating_ips", "volumes"):
        cloud.ledger.add(collection, f"tf-left-{collection}", ours)
    moved = cloud.ledger.add("volumes", "tf-moved", ours)
    kept = [
        moved, cloud.ledger.add("volumes", "tf-theirs", theirs), cloud.ledger.add("volumes", "unmarked"),
        cloud.ledger.add("volumes", "tf-attached", ours, attached_to="1001"),
    ]  # fmt: skip
    world.travel.shift(2 * HOUR)
    found = world.app.sweep("delete_orphans")
    assert (found["address"], found["volume"], found["done"]) == (2, 2, 0)  # old, but seen for the first time
    moved.attached_to = "1002"
    world.travel.shift(HOUR / 2)
    assert world.app.sweep("delete_orphans")["done"] == 0
    moved.attached_to = None
    world.travel.shift(HOUR / 2)
    assert world.app.sweep("delete_orphans")["done"] == 3
    assert cloud.ledger.standing() == kept
    audited = world.service.providers.audit()["differences"]
    assert [(one["kind"], one["label"], one["price_per_hour"]) for one in audited] == [("volume", "tf-moved", 0.001)]
    world.travel.shift(HOUR / 2)
    assert world.app.sweep("delete_orphans")["done"] == 0  # it was with a server in between: its time began anew


def test_a_volume_that_is_named_like_a_node_that_stands_is_left_to_it() -> None:
    """Perhaps somebody made it for that node; one of a destroyed node is nobody's."""
    left = [
        Leftover("volume", "volumes/1", "a", "i-1"),
        Leftover("address", "primary_ips/2", "b", "i-1", attached_to="9"),
    ]
    assert unattached("cloud", left, {"a": node()}, now=1000.0) == []
    (found,) = unattached("cloud", left, {"a": node(destroyed_at=500.0)}, now=1000.0)
    assert (found.kind, found.server_id, found.price_per_hour, found.age_s) == ("volume", "volumes/1", None, None)


def test_a_server_without_the_mark_when_it_is_read_again_is_left_alone(
    place: tuple[World, FakeCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took it over between the listing and the deletion."""
    world, cloud = place
    server_id = stray(world, cloud, "tf-old")
    world.travel.shift(HOUR + 1)
    provider = world.app.tools.providers["cloud"]
    before = provider.get

    def taken_over(asked: str) -> Server | None:
        cloud.ledger.servers[server_id].labels = {INSTALLATION_LABEL: "another"}
        return before(asked)

    monkeypatch.setattr(provider, "get", taken_over)
    assert world.app.sweep("delete_orphans")["done"] == 0
    assert len(cloud.ledger.alive()) == 1


def test_a_server_whose_node_came_to_need_it_meanwhile_is_left_alone(
    place: tuple[World, FakeCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides are read again right before the deletion."""
    world, cloud = place
    world.plan.session_s = None
    world.provider.name = "local"
    server_id = stray(world, cloud, "tf-of-a-node")
    world.travel.shift(HOUR + 1)
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
    assert world.app.sweep("delete_orphans")["done"] == 0
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

    def refused(server_id: str, *, ask: bool) -> bool:
        raise PermanentError("the server is protected", code="provider_invalid")

    with monkeypatch.context() as broken:
        broken.setattr(world.provider, "destroy", refused)
        world.service.nodes.drain(world.caller, world.node().id)
        world.node_is("error")
        assert world.app.sweep("retry_error_nodes") == {"in_error": 1, "done": 0, "failed": 0, "skipped": 0}
        world.run_for(601.0)
        assert world.app.sweep("retry_error_nodes")["done"] == 1
        world.run_for(60.0)
        assert world.node().status == "error"
        world.run_for(601.0)
        assert world.app.sweep("retry_error_nodes")["done"] == 0  # twice as long now
    world.run_for(700.0)
    assert world.app.sweep("retry_error_nodes")["done"] == 1
    world.node_is("destroyed")
    assert world.app.sweep("retry_error_nodes") == {"in_error": 0, "done": 0, "failed": 0, "skipped": 0}


def test_a_provider_that_is_not_configured_any_more_is_named_while_nodes_stand_there(
    place: tuple[World, FakeCloud],
) -> None:
    """Its servers are paid for and nobody here can delete them: that is an error, not an empty listing."""
    world, cloud = place
    world.plan.session_s = None
    stray(world, cloud, "tf-old")
    world.travel.shift(HOUR + 1)
    task = world.submit()
    world.app.runner.turn(task["run_id"])
    world.app.database.write(lambda tx: tx.execute(update(Node).values(provider="gone")))
    assert list(world.service.providers.audit()["failed"]) == ["gone"]
    found = world.app.sweep("delete_orphans")
    assert (found["done"], found["failed"]) == (1, 1)  # what can be asked is not held up by it
    world.app.database.write(lambda tx: tx.execute(update(Node).values(destroyed_at=1.0, status="destroyed")))
    assert world.service.providers.audit()["failed"] == {}
