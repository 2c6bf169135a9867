"""The embedded server, for real."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskflow.errors import InfrastructureError
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.stack.valkey import EmbeddedValkey

pytestmark = pytest.mark.integration


@pytest.fixture
def server(settings: Settings) -> Iterator[EmbeddedValkey]:
    """A running server."""
    server = EmbeddedValkey(DataDir(settings), lock_wait_s=0.2)
    server.start()
    try:
        server.wait_ready(30)
        yield server
    finally:
        server.stop()


def test_the_password_is_required_and_not_in_the_command_line(server: EmbeddedValkey) -> None:
    """Without the password nothing is answered; it lies in a file of mode 0600 only."""
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=server.port, retry=once) as client, pytest.raises(redis.AuthenticationError):
        client.get("x")
    assert server.url.split(":")[2].split("@")[0] not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert stat.S_IMODE(server.config_path.stat().st_mode) == 0o600


def test_data_survives_sigkill_and_a_restart_at_the_same_address(server: EmbeddedValkey) -> None:
    """What was written is there again, also when the file ends in half a record; the URL is the same."""
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    (log,) = (server.config_path.parent / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nha")
    server.start()
    server.wait_ready(30)
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_two_servers_on_one_directory_are_refused(server: EmbeddedValkey, settings: Settings) -> None:
    """The directory is locked as long as a server lives."""
    second = EmbeddedValkey(DataDir(settings), lock_wait_s=0.1)
    with pytest.raises(InfrastructureError, match="another Valkey server uses"):
        second.start()


def test_a_port_that_was_taken_meanwhile_is_named(settings: Settings) -> None:
    """The error names the port."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        server = EmbeddedValkey(DataDir(settings), port)
        with pytest.raises(InfrastructureError, match=str(port)):
            server.start()
        server.stop()
