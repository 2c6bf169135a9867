"""Nodes on this machine: an order is a folder of the data directory, the node host makes it a process.

``nodes/<label>/order.json`` asks for an agent, ``agent.json`` is the agent's answer, ``destroy`` asks for its end and
``destroyed`` says that it is gone. The folder stays for a while as a tombstone: an order that a paused worker writes
late is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskflow.errors import TransientError
from taskflow.file_lock import is_held
from taskflow.files import write_json
from taskflow.nodes.providers.base import Leftover, NodeOrder, OrderInvalid, ProviderUnavailable, Server

NODE_HOST_LOCK = "run/nodehost.lock"


class LocalProvider:
    """See the module. ``data_path`` is the data directory that the node host watches."""

    name = "local"
    creates_once = told_at_once = True

    def __init__(self, data_path: Path) -> None:
        self._data_path = data_path
        self._nodes = data_path / "nodes"

    def find_by_label(self, label: str) -> Server | None:
        """The order with this label, if one was placed."""
        return self.get(label)

    def create(self, order: NodeOrder) -> Server:
        """Place the order. Raises ``OrderInvalid`` when the label was destroyed before."""
        folder = self._nodes / order.label
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if (folder / "destroy").exists() or (folder / "destroyed").exists():
                raise OrderInvalid(f"node {order.label} was destroyed")
            if not (folder / "order.json").exists():
                write_json(folder / "order.json", dict(order.agent))
        except OSError as error:
            raise TransientError(f"the order for {order.label} could not be written: {error}") from error
        return Server(order.label, order.label, "starting")

    def get(self, server_id: str) -> Server | None:
        """What the folder says. ``stopped``: no agent runs and no node host is there to start one.

        Raises ``TransientError`` when nothing here can know: no such folder, and no node host that would have it.
        """
        folder = self._nodes / server_id
        self._must_be_its_machine(folder)
        if (folder / "destroyed").exists():
            return Server(server_id, server_id, "destroyed")
        if not (folder / "order.json").exists():
            return None
        if _agent_runs(folder):
            return Server(server_id, server_id, "running")
        return Server(server_id, server_id, "starting" if self._node_host_runs() else "stopped")

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """Ask the node host to end the node; True once it says so. ``ask`` changes nothing. Raises ``TransientError`` like
        ``get``."""
        folder = self._nodes / server_id
        self._must_be_its_machine(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (folder / "order.json").exists() and not (folder / "destroy").exists():
                (folder / "destroyed").touch()  # never ordered: only the tombstone is left to write
            if (folder / "destroyed").exists():
                return True
            (folder / "destroy").touch()
        except OSError as error:
            raise TransientError(f"{server_id} could not be marked: {error}") from error
        return False

    def inventory(self) -> Iterable[Server]:
        """All orders that are not destroyed."""
        if not self._nodes.is_dir():
            return
        for folder in sorted(self._nodes.iterdir()):
            server = self.get(folder.name)
            if server is not None and server.state != "destroyed":
                yield server

    def leftovers(self) -> Iterable[Leftover]:
        """None: what a local node uses is in its folder."""
        return ()

    def release(self, leftover: Leftover) -> bool:
        """There is nothing to give up."""
        return True

    def check(self) -> str:
        """Whether a node host is there to serve orders."""
        if not self._node_host_runs():
            raise self._nobody_serves("orders")
        return "a node host serves the data directory"

    def _must_be_its_machine(self, folder: Path) -> None:
        """A worker with another data directory must not take what it can't see for something that is gone."""
        if not folder.exists() and not self._node_host_runs():
            raise self._nobody_serves(folder.name)

    def _nobody_serves(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"no node host runs on {self._data_path}, so nothing is known of {what}",
            code="no_node_host",
            advice="run the workers on the node host's machine, with its data directory; start: taskflow nodehost",
        )

    def _node_host_runs(self) -> bool:
        return is_held(self._data_path / NODE_HOST_LOCK)


def _agent_runs(folder: Path) -> bool:
    return is_held(folder / "agent.lock")
