"""A real OpenSSH server on this machine, with a home of its own for who comes: to a provider it is a host.

A missing server raises ``ServerError``: the tests that need it fail, none is skipped.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from taskflow.stack.ports import free_port
from tests.support.processes import ServerError, die_with_parent, end_process, tail
from tests.support.waiting import wait_until

_SEPARATION = Path("/run/sshd")
#: Stands before Python where a test wants trouble. Each request takes the next line of the plan: ``do``; ``lose``: done
#: and its answer lost; ``cut``: the connection breaks before anything is done; ``wait``: never answered.
_TROUBLE = """#!/bin/sh
echo "$@" >> {root}/argv
plan=$(head -n 1 {root}/plan); sed -i 1d {root}/plan
case "$plan" in
    cut) kill -9 $PPID ;;
    wait) exec sleep 30 ;;
    lose) {python} "$@" > {root}/lost; kill -9 $PPID ;;
    *) exec {python} "$@" ;;
esac
"""


def sshd_binary() -> str:
    """The server. Raises ``ServerError`` when there is none."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerError("sshd is missing: apt-get install openssh-server")
    return found


def make_key(path: Path, *, passphrase: str = "") -> Path:
    """A new key; its public half lies beside it."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", str(path)], check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return path


class SshServer:
    """One server, for the user that runs the tests. The port is kept over ``stop`` and ``start``; ``home`` is what comes
    before a relative directory there. ``within`` is put before its command: a namespace, for instance."""

    def __init__(
        self, root: Path, authorized: Path, *, address: str = "127.0.0.1", within: Sequence[str] = (),
        environment: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.root = root
        self.address = address
        self.port = free_port()
        self.user = getpass.getuser()
        self.home = root / "home"
        self.home.mkdir(parents=True)
        self._within = tuple(within)
        self._authorized = authorized
        self._host_key = make_key(root / "host_key")
        self._log = root / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = list(environment)

    def plan(self, *lines: str) -> None:
        """What becomes of the next requests, see ``_TROUBLE``. Before ``start``, or after an earlier plan."""
        tools = self.root / "bin"
        (self.root / "plan").write_text("".join(f"{line}\n" for line in lines))
        if not tools.exists():
            tools.mkdir()
            (self.root / "argv").touch()
            (tools / "python3").write_text(_TROUBLE.format(root=self.root, python=sys.executable))
            (tools / "python3").chmod(0o755)
            self.environment.append(f"PATH={tools}:/usr/local/bin:/usr/bin:/bin")

    @property
    def argv(self) -> str:
        """All that was part of a command since the first plan."""
        return (self.root / "argv").read_text()

    @property
    def name(self) -> str:
        """What its offer is called."""
        return f"{self.address}:{self.port}"

    @property
    def known_line(self) -> str:
        """Its line in a file of known hosts."""
        kind, key, *_ = (self.root / "host_key.pub").read_text().split()
        return f"[{self.address}]:{self.port} {kind} {key}\n"

    def new_host_key(self) -> None:
        """As after the machine was installed anew."""
        (self.root / "host_key").unlink()
        make_key(self._host_key)

    def start(self) -> SshServer:
        """Start and wait until it listens. Raises ``ServerError`` with its last words."""
        if os.geteuid() == 0:
            _SEPARATION.mkdir(exist_ok=True)
        config = self.root / "sshd_config"
        variables = " ".join([f"HOME={self.home}", *self.environment])
        config.write_text(
            f"Port {self.port}\nListenAddress {self.address}\nHostKey {self._host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self._authorized}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSetEnv {variables}\nMaxStartups 100\nPrintMotd no\n"
        )
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._within, sshd_binary(), "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, preexec_fn=die_with_parent(signal.SIGTERM),
            )  # fmt: skip
        wait_until(self._listens, f"sshd listens; see {self._log}", timeout_s=20)
        return self

    def stop(self) -> None:
        """As if the machine were off: what it runs goes on, nobody is let in."""
        if self._process is not None:
            end_process(self._process, signal.SIGTERM)
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerError(f"sshd ended: {tail(self._log)}")
        if self._within:
            return "Server listening" in tail(self._log)
        try:
            with socket.create_connection((self.address, self.port), timeout=1):
                return True
        except OSError:
            return False
