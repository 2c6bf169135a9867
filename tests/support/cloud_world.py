"""A world whose nodes are bought over real HTTP, by the real client libraries, from the cloud that keeps books. Its
servers are agents in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from taskflow.db.nodes import get_node
from taskflow.nodes.providers.base import NodeOrder, Provider
from taskflow.nodes.providers.cloud import LibcloudProvider
from taskflow.nodes.providers.factory import label_prefix
from taskflow.nodes.providers.hetzner import HetznerProvider
from tests.support.fake_agent import FakeAgent
from tests.support.fake_cloud import FakeCloud, FakeServer
from tests.support.virtual import FollowingClock
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

_FILE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "1"
offer = [{size = "size-s", location = "place-1", vcpus = 2, memory_mb = 4000, slots = 2}]
"""


def _hetzner(cloud: FakeCloud, world: World) -> Provider:
    return HetznerProvider(
        "cloud", token=cloud.ledger.token, image="1", installation=world.app.tools.installation,
        clock=cloud.ledger.clock, timeout_s=5.0, api_url=f"http://127.0.0.1:{cloud.port}/v1",
    )  # fmt: skip


def _libcloud(driver: str, cloud: FakeCloud, world: World) -> Provider:
    return LibcloudProvider(
        "cloud", driver=driver, key=cloud.ledger.token, image="1", timeout_s=5.0,
        prefix=lambda: label_prefix(world.app.tools.installation()),
        options={"secure": False, "host": "127.0.0.1", "port": cloud.port},
    )  # fmt: skip


MAKERS: dict[str, Callable[[FakeCloud, World], Provider]] = {
    "hetzner": _hetzner, "digitalocean": partial(_libcloud, "digitalocean"), "vultr": partial(_libcloud, "vultr"),
}  # fmt: skip


@dataclass
class CloudWorld:
    """``world`` buys from ``cloud``."""

    world: World
    cloud: FakeCloud

    def submit(self, **spec: Any) -> dict[str, Any]:
        """A task that needs a server of the cloud."""
        return self.world.submit(resources={"provider": "cloud"}, **spec)

    @property
    def agent(self) -> FakeAgent:
        """That of the newest server."""
        return self.world.agent


@contextmanager
def cloud_world(kind: str, make_world: MakeWorld, tmp_path: Path, **settings: Any) -> Iterator[CloudWorld]:
    """``kind``: whose API is spoken, one of ``MAKERS``; keyword arguments are settings."""
    path = tmp_path / "providers.toml"
    path.write_text(_FILE)
    given = {"providers_file": str(path), "public_url": "https://control.example", "node_warm_s": 5.0, **settings}
    world = make_world(**given)
    with FakeCloud(FollowingClock(world.travel), unique_names=kind == "hetzner") as cloud:
        world.cloud = partial(MAKERS[kind], cloud, world)

        def boot(server: FakeServer) -> None:
            files = json.loads(server.user_data.removeprefix("#cloud-config\n"))["write_files"]
            node_id = json.loads(files[0]["content"])["node_id"]
            with world.app.database.read() as tx:
                node = get_node(tx, node_id)
            assert node is not None
            order = NodeOrder(node_id, server.name, world.app.tools.agent_order(node))
            agent = world.provider.make_agent(order, world.service)
            world.provider.agents[server.name] = agent
            if world.plan.boot_s is not None:
                world.planner.after(world.plan.boot_s, agent.boot)

        def switch_off(server: FakeServer) -> None:
            agent = world.provider.agents[server.name]
            agent.alive = False
            agent.workspaces.clear()  # they went with their machine

        cloud.ledger.on_created, cloud.ledger.on_deleted = boot, switch_off
        world.start_worker()
        yield CloudWorld(world, cloud)
