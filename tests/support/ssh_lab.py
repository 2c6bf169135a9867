"""Hosts that a provider reaches over SSH, with what it needs for that, and a look at what stands on them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from taskflow.clock import Clock, ManualClock
from taskflow.nodes.providers.base import NodeOrder
from taskflow.nodes.providers.ssh import SshProvider
from taskflow.nodes.providers.ssh_link import Account, Host
from tests.support.orders import agent_order
from tests.support.sshd import SshServer, make_key
from tests.support.stand_in_agent import make

PREFIX = "tf-installation-"
DIRECTORY = "taskflow-nodes"


class Lab:
    """Some servers, one key that opens them all."""

    def __init__(self, root: Path, count: int) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self.key = make_key(root / "key")
        self.servers = [SshServer(root / f"host-{number}", root / "key.pub") for number in range(count)]
        self.known_hosts = root / "known_hosts"
        self.agent = make(root / "agent.pyz")
        self.know()

    def know(self) -> None:
        """Write down the hosts' keys as they are now."""
        self.known_hosts.write_text("".join(server.known_line for server in self.servers))

    def provider(
        self, *, prefix: str = PREFIX, timeout_s: float = 20.0, clock: Clock | None = None, agent: Path | None = None,
        isolate: bool = False, **account: Any,
    ) -> SshProvider:  # fmt: skip
        """A provider of them all, as a worker has it."""
        known: dict[str, Any] = {
            "user": self.servers[0].user, "key_file": str(self.key), "known_hosts": str(self.known_hosts),
            "directory": DIRECTORY, "python": "python3", **account,
        }  # fmt: skip
        return SshProvider(
            "lab", account=Account(**known),
            hosts={server.name: Host(server.address, server.port) for server in self.servers}, prefix=lambda: prefix,
            agent_file=lambda: agent or self.agent, control_plane_url="http://control.test", ca="", isolate=isolate,
            timeout_s=timeout_s, clock=clock or ManualClock(),
        )  # fmt: skip

    def order(self, number: int = 1, host: int | None = None, **agent: Any) -> NodeOrder:
        """An order of its own for each number, at that host or at the one of its number."""
        server = self.servers[number - 1 if host is None else host]
        node = f"node-{number}"
        return NodeOrder(node, f"{PREFIX}{number}", agent_order(node, slots=4, **agent), size=server.name)

    def directory(self, host: int = 0) -> Path:
        """The provider's directory on a host."""
        return self.servers[host].home / DIRECTORY

    def standing(self, host: int = 0) -> list[str]:
        """What is there besides the lock and the tombstones."""
        found = self.directory(host)
        return sorted({one.name for one in found.iterdir()} - {"lock", "gone"}) if found.exists() else []

    def keepers(self) -> list[int]:
        """The processes of agents that live anywhere here."""
        return [process.pid for process in psutil.process_iter() if _works_in(process, str(self.root))]

    def close(self) -> None:
        """Nothing goes on."""
        for server in self.servers:
            server.stop()
        for pid in self.keepers():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def lab(root: Path, count: int) -> Iterator[Lab]:
    """Servers until the block ends."""
    made = Lab(root, count)
    try:
        for server in made.servers:
            server.start()
        yield made
    finally:
        made.close()


def tombstones(directory: Path) -> Mapping[str, Path]:
    """By label."""
    return {one.name: one for one in (directory / "gone").glob("*")}


def _works_in(process: psutil.Process, root: str) -> bool:
    try:
        return "--root" in process.cmdline() and any(part.startswith(root) for part in process.cmdline())
    except psutil.Error:
        return False
