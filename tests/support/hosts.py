"""Other hosts, each with a network namespace, a home and an SSH server of its own, on one bridge with this one.

Only root can make them. They share processes and files with this machine; a link is cut without anybody being told.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.support.processes import ServerError
from tests.support.sshd import SshServer, make_key
from tests.support.waiting import wait_until

#: Where the users of workspaces can pass, unlike the directories of the tests themselves.
_PASSABLE = Path("/var/tmp")


class OtherHost:
    """One host: what runs there, what lies there, and the link to it."""

    def __init__(self, number: int, network: Network) -> None:
        self.name = f"tf{os.getpid()}-{number}"
        self.address = f"{network.prefix}.{number + 1}"
        self._port = f"tf{os.getpid()}p{number}"
        inside = f"tf{os.getpid()}n{number}"
        network.on_close(["ip", "netns", "delete", self.name])
        _ip("netns", "add", self.name)
        network.on_close(["ip", "link", "delete", self._port])
        _ip("link", "add", self._port, "type", "veth", "peer", "name", inside, "netns", self.name)
        _ip("link", "set", self._port, "master", network.bridge)
        _ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", inside)
        for link in ("lo", inside):
            _ip("-n", self.name, "link", "set", link, "up")
        self.heal()
        self.namespace = f"net:[{Path('/run/netns', self.name).stat().st_ino}]"
        self.server = SshServer(
            network.root / f"host-{number}", network.root / "key.pub", address=self.address,
            within=("ip", "netns", "exec", self.name),
        )  # fmt: skip

    def cut(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        _ip("link", "set", self._port, "down")

    def heal(self) -> None:
        """Everything comes through again."""
        _ip("link", "set", self._port, "up")

    def processes(self) -> list[str]:
        """The command lines of what lives there, besides its SSH server."""
        found = [_cmdline(one) for one in self._all()]
        return [" ".join(line) for line in found if line and "sshd" not in line[0]]

    def files(self) -> list[str]:
        """What lies in its home, besides the provider's lock and its tombstones."""
        home = self.server.home
        found = {str(path.relative_to(home)) for path in home.rglob("*")}
        return sorted(
            found - {"taskflow-nodes", "taskflow-nodes/lock", "taskflow-nodes/gone"}
            - {path for path in found if path.startswith("taskflow-nodes/gone/")}
        )  # fmt: skip

    def kill_all(self) -> None:
        """Nothing of it goes on, its SSH server neither."""

        def dead() -> bool:
            found = self._all()
            for one in found:
                with contextlib.suppress(psutil.Error):
                    one.send_signal(signal.SIGKILL)
            return not found

        wait_until(dead, f"{self.name} is dead")

    def _all(self) -> list[psutil.Process]:
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                # A zombie has no namespaces any more.
                if str(Path(f"/proc/{one.pid}/ns/net").readlink()) == self.namespace:
                    found.append(one)
        return found


class Network:
    """The bridge, this host's address on it, and the others. ``root`` is a directory that everybody may pass through."""

    def __init__(self) -> None:
        self.bridge = f"tf{os.getpid()}br"
        self.prefix = f"10.214.{os.getpid() % 250}"
        self.address = f"{self.prefix}.1"
        self.hosts: list[OtherHost] = []
        self._closing: list[list[str]] = []
        self.root = Path(tempfile.mkdtemp(prefix="tf-hosts-", dir=_PASSABLE))
        self.root.chmod(0o711)
        self.key = make_key(self.root / "key")
        self.known_hosts = self.root / "known_hosts"

    def open(self, count: int) -> None:
        """Make ``count`` hosts. Raises ``ServerError`` where namespaces can't be made."""
        self.on_close(["ip", "link", "delete", self.bridge])
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        for number in range(1, count + 1):
            self.hosts.append(OtherHost(number, self))
            self.hosts[-1].server.start()
        self.known_hosts.write_text("".join(host.server.known_line for host in self.hosts))

    def on_close(self, command: list[str]) -> None:
        """Run it at the end, whatever became of what it takes back; the last one first."""
        self._closing.append(command)

    def close(self) -> None:
        """Nothing is left of any of it."""
        try:
            for host in self.hosts:
                host.server.stop()
                host.kill_all()
        finally:
            for command in reversed(self._closing):
                subprocess.run(command, check=False, capture_output=True)
            shutil.rmtree(self.root)


@contextlib.contextmanager
def other_hosts(count: int) -> Iterator[Network]:
    """``count`` hosts until the block ends. Raises ``ServerError`` where they can't be made."""
    network = Network()
    try:
        network.open(count)
        yield network
    finally:
        network.close()


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []  # gone


def _ip(*arguments: str) -> None:
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        raise ServerError(f"ip {' '.join(arguments)}: {said}".strip()) from error
