"""What the guarantees of every provider are asked of: each provider with its world around it."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from taskflow.agent.ending import Ending
from taskflow.clock import ManualClock
from taskflow.file_lock import FileLock
from taskflow.nodes.providers.base import Leftover, NodeOrder, Provider
from taskflow.nodes.providers.cloud import LibcloudProvider
from taskflow.nodes.providers.hetzner import HetznerProvider
from taskflow.nodes.providers.local import NODE_HOST_LOCK, LocalProvider
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.stack.nodehost import NodeHost
from tests.support.fake_cloud import FakeCloud
from tests.support.orders import agent_order
from tests.support.ssh_lab import lab
from tests.support.sshd import make_key
from tests.support.waiting import wait_until

CLOUDS = ("hetzner", "digitalocean", "vultr")
PROVIDERS = ("local", "ssh", *CLOUDS)
PREFIX = "tf-installation-"
#: Provider -> what its API calls its addresses and volumes, where they can be told for ours.
COLLECTIONS = {
    "hetzner": {"primary_ips": "address", "floating_ips": "address", "volumes": "volume"},
    "digitalocean": {"volumes": "volume"},
    "vultr": {"blocks": "volume", "reserved-ips": "address"},
}


@dataclass
class Subject:
    """A provider, and who keeps its books. ``cloud`` is None for a provider without one."""

    provider: Provider
    cloud: FakeCloud | None
    #: The same provider with a credential that is not accepted.
    stranger: Provider | None = None
    #: The same provider with little patience.
    hasty: Provider | None = None
    #: What it sells, where nothing is sold twice; ``order`` says the rest.
    sizes: tuple[str, ...] = ()

    def order(self, number: int = 1) -> NodeOrder:
        """What is bought."""
        return dataclasses.replace(order(number), size=self.sizes[number - 1]) if self.sizes else order(number)


def order(number: int = 1) -> NodeOrder:
    """What is bought."""
    return NodeOrder(
        f"node-{number}", f"{PREFIX}{number}", agent_order(f"node-{number}", slots=4),
        size="size-s", location="place-1", user_data="#cloud-config\n",
    )  # fmt: skip


def _hetzner(cloud: FakeCloud, token: str, clock: ManualClock, timeout_s: float) -> Provider:
    return HetznerProvider(
        "hetzner", token=token, image="debian-12", installation=lambda: "i-1", clock=clock, timeout_s=timeout_s,
        api_url=f"http://127.0.0.1:{cloud.port}/v1",
    )  # fmt: skip


def _libcloud(driver: str) -> Callable[[FakeCloud, str, ManualClock, float], Provider]:
    def make(cloud: FakeCloud, token: str, clock: ManualClock, timeout_s: float) -> Provider:
        options = {"secure": False, "host": "127.0.0.1", "port": cloud.port}
        return LibcloudProvider(
            driver, driver=driver, key=token, image="1", prefix=lambda: PREFIX, timeout_s=timeout_s, options=options
        )

    return make


_MAKERS = {"hetzner": _hetzner, "digitalocean": _libcloud("digitalocean"), "vultr": _libcloud("vultr")}


@contextmanager
def _local(settings: Settings) -> Iterator[Subject]:
    ended = Ending()
    data_dir = DataDir(settings)
    lifeline = data_dir.root / "lifeline"
    lifeline.touch()
    lock = FileLock(data_dir.root / NODE_HOST_LOCK)
    assert lock.acquire(wait_s=1.0)
    sleeper = "import fcntl, signal, sys; f = open(sys.argv[1] + '/agent.lock', 'w'); fcntl.flock(f, 2); signal.pause()"
    host = NodeHost(settings, lifeline, argv=lambda root, _url, _line: [sys.executable, "-c", sleeper, str(root)])
    thread = threading.Thread(target=host.run, args=(ended,))
    thread.start()
    provider = LocalProvider(data_dir.root)
    try:
        yield Subject(provider, None)
    finally:
        for server in list(provider.inventory()):
            wait_until(partial(provider.destroy, server.server_id), "gone")
        ended.set()
        thread.join()
        lock.release()


@contextmanager
def _ssh(root: Path) -> Iterator[Subject]:
    with lab(root / "lab", 3) as made:
        strange = make_key(root / "another-token")
        yield Subject(
            made.provider(), None, made.provider(key_file=str(strange)), made.provider(timeout_s=0.05),
            tuple(server.name for server in made.servers),
        )  # fmt: skip


@pytest.fixture
def subject(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Subject]:
    """The provider that the test is about, with its world around it."""
    with ExitStack() as stack:
        if request.param == "ssh":
            yield stack.enter_context(_ssh(tmp_path))
            return
        if request.param == "local":
            yield stack.enter_context(_local(settings))
            return
        clock = ManualClock()
        cloud = stack.enter_context(FakeCloud(clock, unique_names=request.param == "hetzner"))
        make = _MAKERS[request.param]
        token = cloud.ledger.token
        yield Subject(
            make(cloud, token, clock, 5.0),
            cloud,
            make(cloud, "another-token", clock, 5.0),
            make(cloud, token, clock, 0.2),
        )


def destroy(provider: Provider, server: str) -> None:
    """Until it is gone."""
    wait_until(lambda: provider.destroy(server), f"{server} is gone")


def leftover(subject: Subject, number: int = 1) -> Leftover:
    """One as it was listed once, of whatever kind comes first."""
    collection, kind = next(iter(COLLECTIONS[subject.provider.name].items()))
    mark = "i-1" if subject.provider.name == "hetzner" else PREFIX
    return Leftover(kind, f"{collection}/{number}", f"{PREFIX}disk", mark)


every_provider = pytest.mark.parametrize("subject", PROVIDERS, indirect=True)
every_refuser = pytest.mark.parametrize("subject", ("ssh", *CLOUDS), indirect=True)
every_cloud = pytest.mark.parametrize("subject", CLOUDS, indirect=True)
