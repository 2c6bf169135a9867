"""A purchase whose worker dies at any line of it: one server for its node, with the real client libraries over HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from taskflow.db.nodes import get_node
from taskflow.nodes import machine
from taskflow.nodes.providers import cloud as libcloud_file
from taskflow.nodes.providers import hetzner as hetzner_file
from taskflow.nodes.providers.base import NodeOrder, Provider
from taskflow.nodes.providers.cloud import LibcloudProvider
from taskflow.nodes.providers.factory import label_prefix
from taskflow.nodes.providers.hetzner import HetznerProvider
from tests.support.fake_cloud import FakeCloud, FakeServer
from tests.support.virtual import Crash, FollowingClock
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

FILE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "1"
offer = [{size = "size-s", location = "place-1", vcpus = 2, memory_mb = 4000, slots = 2}]
"""
pytestmark = pytest.mark.crashpoints  # minutes of real HTTP: make crashpoints
_FILES = {machine.__file__, hetzner_file.__file__, libcloud_file.__file__}


class LineCrash:
    """Kills the worker at the n-th line that runs inside ``create_server``, once."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.where: str | None = None
        self._depth = 0

    def __enter__(self) -> LineCrash:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        begins = frame.f_code is machine.NodeMachine.create_server.__code__
        if begins:
            self._depth += 1
        return self._line if begins or (self._depth and frame.f_code.co_filename in _FILES) else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "return" and frame.f_code is machine.NodeMachine.create_server.__code__:
            self._depth -= 1
        if event == "line" and self.where is None:
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise Crash(self.where)
        return self._line


def _hetzner(cloud: FakeCloud, world: World) -> Provider:
    return HetznerProvider(
        "cloud", token=cloud.ledger.token, image="1", installation=world.app.tools.installation,
        clock=cloud.ledger.clock, timeout_s=5.0, api_url=f"http://127.0.0.1:{cloud.port}/v1",
    )  # fmt: skip


def _digitalocean(cloud: FakeCloud, world: World) -> Provider:
    return LibcloudProvider(
        "cloud", driver="digitalocean", key=cloud.ledger.token, image="1", timeout_s=5.0,
        prefix=lambda: label_prefix(world.app.tools.installation()),
        options={"secure": False, "host": "127.0.0.1", "port": cloud.port},
    )  # fmt: skip


_MAKERS: dict[str, Callable[[FakeCloud, World], Provider]] = {"hetzner": _hetzner, "digitalocean": _digitalocean}


@pytest.fixture(params=_MAKERS)
def place(request: pytest.FixtureRequest, make_world: MakeWorld, tmp_path: Path) -> Iterator[tuple[World, FakeCloud]]:
    """A world whose cloud is driven over HTTP. Its servers are agents in this process."""
    path = tmp_path / "providers.toml"
    path.write_text(FILE)
    world = make_world(providers_file=str(path), public_url="https://control.example", node_warm_s=5.0)
    with FakeCloud(FollowingClock(world.travel), unique_names=request.param == "hetzner") as cloud:
        world.cloud = partial(_MAKERS[request.param], cloud, world)

        def boot(server: FakeServer) -> None:
            files = json.loads(server.user_data.removeprefix("#cloud-config\n"))["write_files"]
            node_id = json.loads(files[0]["content"])["node_id"]
            with world.app.database.read() as tx:
                node = get_node(tx, node_id)
            assert node is not None
            order = NodeOrder(node_id, server.name, world.app.tools.agent_order(node))
            agent = world.provider.make_agent(order, world.service)
            world.provider.agents[server.name] = agent
            world.planner.after(3.0, agent.boot)

        cloud.ledger.on_created = boot
        world.start_worker()
        yield world, cloud


def _buy(world: World, crash: LineCrash) -> None:
    """One task, whose node's worker dies at a line of the purchase."""
    task = world.submit(resources={"provider": "cloud"})
    with crash:
        world.run_until(lambda: crash.where or world.task(task["id"])["finished"], "it dies or it is done")
    done = world.finish(task)
    assert done["status"] == "completed", (crash.where, done["error"])
    world.dissolve()


@pytest.mark.timeout(300)
def test_a_worker_killed_at_any_line_of_a_purchase_leaves_one_server_for_its_node(
    place: tuple[World, FakeCloud],
) -> None:
    """Counted at the cloud: as many servers as nodes, each name sold once, all of them given back."""
    world, cloud = place
    lines = 0
    while True:
        lines += 1
        crash = LineCrash(lines)
        _buy(world, crash)
        assert cloud.ledger.creates == lines, crash.where
        assert cloud.ledger.bought_twice() == []
        assert cloud.ledger.alive() == [], crash.where
        if crash.where is None:
            break
    assert lines > 25  # it died at many places


@pytest.mark.timeout(300)
def test_the_same_holds_where_the_answer_is_lost_and_the_listing_lags(place: tuple[World, FakeCloud]) -> None:
    """The worker dies while it looks for what it may have bought."""
    world, cloud = place
    lines = 0
    while True:
        lines += 3
        cloud.faults.lose_answers, cloud.faults.lag_s = 1, 20.0
        crash = LineCrash(lines)
        _buy(world, crash)
        world.run_for(60.0)
        assert cloud.ledger.bought_twice() == [], crash.where
        assert cloud.ledger.alive() == [], crash.where
        if crash.where is None:
            break
