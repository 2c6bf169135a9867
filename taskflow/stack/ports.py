"""TCP ports: finding a free one, refusing a busy one by name, asking whether something answers."""

from __future__ import annotations

import errno
import http.client
import random
import socket
from pathlib import Path

from taskflow.errors import InfrastructureError

# Below the range from which systems give ports to outgoing connections (Linux: 32768, IANA: 49152), above well-known ones.
_PORTS = range(20_000, 32_768)
_TRIES = 100
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Its own generator: processes that seed the common one alike would all choose the same ports.
_random = random.SystemRandom()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(host: str, port: int) -> int:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _outgoing_ports() -> range:
    """The ports that this system gives to outgoing connections; where it doesn't say, the IANA's dynamic ones."""
    try:
        first, last = map(int, _OUTGOING.read_text().split())
    except (OSError, ValueError):
        return range(49_152, 65_536)
    return range(first, last + 1)


def free_port(host: str = "127.0.0.1") -> int:
    """A port of ``host`` that nobody has at this moment. Raises InfrastructureError when there is none.

    It is one that no outgoing connection is given: a server takes seconds from here to its own bind, and on a busy
    machine the kernel would hand a port of that range to some client in between.
    """
    outgoing = _outgoing_ports()
    for port in _random.sample(_PORTS, _TRIES):
        if port not in outgoing:
            try:
                return _bind(host, port)
            except OSError:
                continue
    try:
        return _bind(host, 0)
    except OSError as error:
        raise InfrastructureError(f"no port of {host} can be opened: {error}") from error


def claim_port(host: str, port: int, variable: str) -> int:
    """``port`` if it is free, any free one if it is 0. Raises InfrastructureError naming the port and the variable."""
    if port == 0:
        return free_port(host)
    try:
        return _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InfrastructureError(
                f"port {port} of {host} is in use by another process",
                code="port_busy",
                advice=f"set {variable} to another port, or to 0 for any free one",
                detail={"port": port, "setting": variable},
            ) from error
        raise InfrastructureError(
            f"port {port} of {host} can't be opened: {error.strerror}", advice=f"set {variable} to another port"
        ) from error


def reachable_host(host: str) -> str:
    """The address under which a server that listens on ``host`` is reached from this machine, ready for a URL."""
    if host in ("", "0.0.0.0"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def http_answers(host: str, port: int, path: str, *, timeout_s: float = 1.0) -> bool:
    """True when ``GET path`` answers 200. Never goes through a proxy."""
    connection = http.client.HTTPConnection(reachable_host(host).strip("[]"), port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
