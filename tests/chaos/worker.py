"""The real worker as one of two releases: ``celery -A tests.chaos.worker worker``."""

from __future__ import annotations

import os
import socket
from typing import Any

import urllib3.util.connection

import taskflow.celery as real
from taskflow.bootstrap import App
from tests.chaos.released import released

app = real.app
_get = real.process.get


def _released_app() -> App:
    return released(_get())


real.process.get = _released_app  # type: ignore[method-assign]

_connect = urllib3.util.connection.create_connection


def _by_the_link(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
    """A worker speaks HTTP with node agents only: each connection goes through the link, which is told where to."""
    link = ("127.0.0.1", int(os.environ["CHAOS_AGENT_LINK"]))
    connected = _connect(link, *arguments, **options)
    connected.sendall(f"{address[1]}\n".encode())
    return connected


if "CHAOS_AGENT_LINK" in os.environ:
    urllib3.util.connection.create_connection = _by_the_link
