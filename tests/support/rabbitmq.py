"""A RabbitMQ of the tests' own: a node with its own directory, ports and name server, a child of the test process.

The server is Debian's package, which need not run (``apt-get install rabbitmq-server``).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import kombu

from taskflow.stack.ports import free_port
from tests.support.processes import ServerError, die_with_parent, end_process, tail
from tests.support.waiting import wait_until

_PLACES = ("lib/rabbitmq_server-*/sbin/rabbitmq-server",)


def rabbitmq_binary() -> Path | None:
    """The server's own script, not the packages' wrapper, which changes users; None when it is not installed."""
    found = sorted(path for pattern in _PLACES for path in Path("/usr/lib/rabbitmq").glob(pattern))
    return found[-1] if found and shutil.which("erl") and shutil.which("epmd") else None


class RabbitServer:
    """One RabbitMQ on 127.0.0.1. The port and the data are kept over ``kill`` and ``start``."""

    def __init__(self, binary: Path) -> None:
        self.binary = binary
        self.base = Path(tempfile.mkdtemp(prefix="taskflow-rabbit-"))
        self.port, self._distribution, self._names = free_port(), free_port(), free_port()
        self.log = self.base / "server.log"
        self._node = f"taskflow-{secrets.token_hex(4)}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RabbitServer:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start it and wait until it takes connections. Raises ``ServerError`` with its last words."""
        if self._epmd is None:
            # Started here, because a node that finds none starts one that outlives it.
            self._epmd = self._spawn(["epmd", "-port", str(self._names), "-address", "127.0.0.1"], signal.SIGKILL)
        self._server = self._spawn([str(self.binary)], signal.SIGTERM)
        try:
            wait_until(self._answers, "RabbitMQ takes connections", timeout_s=90, poll_s=0.2)
        except AssertionError as error:
            raise ServerError(f"RabbitMQ ({self.binary}) does not answer. Its output:\n{tail(self.log)}") from error

    def _answers(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise ServerError(f"RabbitMQ ({self.binary}) ended. Its output:\n{tail(self.log)}")
        try:
            with kombu.Connection(self.url, connect_timeout=5) as connection:
                connection.connect()
        except (OSError, *kombu.Connection(self.url).connection_errors):
            return False
        return True

    def _environ(self) -> Mapping[str, str]:
        return {
            **os.environ, "HOME": str(self.base), "RABBITMQ_NODENAME": self._node, "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1", "RABBITMQ_DIST_PORT": str(self._distribution),
            "ERL_EPMD_PORT": str(self._names), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.base / "mnesia"), "RABBITMQ_LOG_BASE": str(self.base / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.base / "none"), "RABBITMQ_CONF_ENV_FILE": str(self.base / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.base / "plugins"), "RABBITMQ_PID_FILE": str(self.base / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip

    def _spawn(self, argv: list[str], death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                argv, env=self._environ(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.base,
                start_new_session=True, preexec_fn=die_with_parent(death_signal),
            )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL of the server with its helpers. Its directory stays."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait(20)
            self._server = None

    def close(self) -> None:
        """Stop everything and remove the directory."""
        self.kill()
        if self._epmd is not None:
            end_process(self._epmd, signal.SIGKILL)
        shutil.rmtree(self.base, ignore_errors=True)
