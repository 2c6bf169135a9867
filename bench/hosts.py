"""Other hosts, as far as their network goes: namespaces of the kernel, each with a link to this one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface

from bench.subjects import Missing


@dataclass(frozen=True)
class Host:
    """Its name, and the network between it and this one, in which this one is the first address."""

    name: str
    network: str

    @property
    def within(self) -> Sequence[str]:
        """What runs the command after it on that host."""
        return ("ip", "netns", "exec", self.name)

    @property
    def server(self) -> str:
        """The address at which it reaches this host."""
        return str(ip_interface(self.network).ip)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """``count`` hosts until the block ends. Raises ``Missing`` where namespaces can't be made (only root can)."""
    made = [Host(f"tf{os.getpid()}-{number}", f"10.213.{number}.1/30") for number in range(1, count + 1)]
    with contextlib.ExitStack() as stack:
        for number, host in enumerate(made, 1):
            _ip("netns", "add", host.name)
            stack.callback(subprocess.run, ["ip", "netns", "delete", host.name], check=False)
            here, there = f"tf{os.getpid()}h{number}", f"tf{os.getpid()}n{number}"
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", host.name)
            _ip("address", "add", host.network, "dev", here)
            _ip("link", "set", here, "up")
            _ip("-n", host.name, "address", "add", f"10.213.{number}.2/30", "dev", there)
            _ip("-n", host.name, "link", "set", there, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield made


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing(f"ip {' '.join(arguments)}: {getattr(error, 'stderr', '') or error}".strip()) from error
