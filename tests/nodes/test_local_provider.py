"""The local provider on real files."""

from __future__ import annotations

import fcntl
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskflow.errors import PermanentError, TransientError
from taskflow.nodes.providers.base import NodeOrder
from taskflow.nodes.providers.local import NODE_HOST_LOCK, LocalProvider
from tests.support.orders import agent_order

ORDER = NodeOrder("node-1", "label-1", agent_order("node-1", slots=4))


@pytest.fixture
def provider(tmp_path: Path) -> LocalProvider:
    """A provider on an empty data directory."""
    return LocalProvider(tmp_path)


@contextmanager
def node_host(tmp_path: Path) -> Iterator[None]:
    """A node host serves the data directory meanwhile."""
    host = tmp_path / NODE_HOST_LOCK
    host.parent.mkdir(parents=True, exist_ok=True)
    with host.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def test_an_order_is_placed_once(provider: LocalProvider, tmp_path: Path) -> None:
    """The same label again answers the same server and leaves the first order alone."""
    file = tmp_path / "nodes" / "label-1" / "order.json"
    first = provider.create(ORDER)
    before = file.stat()
    assert provider.create(ORDER) == first
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert json.loads(file.read_text())["agent_token"] == "agent-token"


def test_an_order_is_readable_by_its_owner_alone(provider: LocalProvider, tmp_path: Path) -> None:
    """It holds tokens."""
    provider.create(ORDER)
    folder = tmp_path / "nodes" / "label-1"
    assert stat.S_IMODE((folder / "order.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [file.name for file in folder.iterdir()] == ["order.json"]


def test_what_another_machine_holds_is_unknown_and_not_gone(provider: LocalProvider) -> None:
    """A worker whose data directory no node host serves can't say that a node of elsewhere is destroyed."""
    for ask in (provider.get, provider.find_by_label, provider.destroy):
        with pytest.raises(TransientError) as unknown:
            ask("label-1")
        assert unknown.value.code == "no_node_host"
    assert list(provider.inventory()) == []


def test_a_late_order_for_a_destroyed_label_is_refused(provider: LocalProvider, tmp_path: Path) -> None:
    """A paused worker can't bring a destroyed node back, whether it was ordered before or not."""
    with node_host(tmp_path):
        assert provider.destroy("label-1") is True
    with pytest.raises(PermanentError) as refused:
        provider.create(ORDER)
    assert refused.value.code == "provider_invalid"
    assert provider.find_by_label("label-1").state == "destroyed"  # type: ignore[union-attr]


def test_a_server_is_gone_only_when_the_node_host_says_so(provider: LocalProvider, tmp_path: Path) -> None:
    """Destroying asks; asking again answers how far it is."""
    provider.create(ORDER)
    assert [provider.destroy("label-1") for _ in range(2)] == [False, False]
    with pytest.raises(PermanentError):
        provider.create(ORDER)
    (tmp_path / "nodes" / "label-1" / "destroyed").touch()
    assert provider.destroy("label-1") is True
    assert list(provider.inventory()) == []


def test_the_state_is_read_from_locks_that_living_processes_hold(provider: LocalProvider, tmp_path: Path) -> None:
    """A process id in a file would be believed after its process died; a lock is not."""
    with node_host(tmp_path):
        assert provider.get("label-1") is None
    provider.create(ORDER)
    assert provider.get("label-1").state == "stopped"  # type: ignore[union-attr]
    agent = tmp_path / "nodes" / "label-1" / "agent.lock"
    with node_host(tmp_path):
        assert provider.get("label-1").state == "starting"  # type: ignore[union-attr]
    with agent.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [server.state for server in provider.inventory()] == ["running"]
    assert provider.get("label-1").state == "stopped"  # type: ignore[union-attr]


def test_a_disk_that_refuses_is_worth_another_attempt(tmp_path: Path) -> None:
    """A full or unwritable disk may be mended."""
    (tmp_path / "nodes").write_text("a file where a folder should be")
    with pytest.raises(TransientError):
        LocalProvider(tmp_path).create(ORDER)
    with pytest.raises(TransientError):
        LocalProvider(tmp_path).destroy("label-1")
