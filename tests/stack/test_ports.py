"""Free ports: taken by nobody, and by no outgoing connection before the server that asked for one binds it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from taskflow.stack import ports


@pytest.fixture
def outgoing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the system says what ports outgoing connections are given; absent at first."""
    told = tmp_path / "ip_local_port_range"
    monkeypatch.setattr(ports, "_OUTGOING", told)
    return told


def test_a_free_port_is_none_that_an_outgoing_connection_is_given(outgoing: Path) -> None:
    outgoing.write_text("32768\t60999\n")
    assert all(1024 <= port < 32_768 for port in (ports.free_port() for _ in range(20)))


def test_ports_that_the_system_set_aside_for_outgoing_connections_are_left_to_them(outgoing: Path) -> None:
    outgoing.write_text("20000\t32000\n")
    assert all(port > 32_000 for port in (ports.free_port() for _ in range(20)))


@pytest.mark.parametrize("told", [None, "nonsense", "1024\t65535\n"])
def test_a_port_is_found_whatever_the_system_says_of_its_range(outgoing: Path, told: str | None) -> None:
    if told is not None:
        outgoing.write_text(told)
    assert 1024 <= ports.free_port() <= 65_535


def test_a_port_somebody_listens_on_is_not_free(outgoing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = server.getsockname()[1]
        outgoing.write_text("1\t1\n")
        monkeypatch.setattr(ports, "_PORTS", range(busy, busy + 1))
        monkeypatch.setattr(ports, "_TRIES", 1)
        assert ports.free_port() != busy
