"""What a bought server is told at its first boot, and what it does then."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from taskflow import protocol
from taskflow.nodes.providers.base import OrderInvalid
from taskflow.nodes.user_data import USER_DATA_BYTES_MAX, ca_certificates, user_data
from taskflow.settings import Settings

TOKEN = "once-and-never-again"
AGENT = b"#!/usr/bin/env python3\nthe agent"


def _config(text: str) -> dict[str, Any]:
    assert text.startswith("#cloud-config\n")
    found: dict[str, Any] = json.loads(text.removeprefix("#cloud-config\n"))
    return found


def test_it_is_cloud_config_that_names_the_node_and_holds_one_token_in_files_of_root() -> None:
    """The only secret in it is the one that is worth nothing once the agent is ready, and on no command line."""
    config = _config(user_data(node_id="node-1", control_plane_url="https://control.example/", bootstrap_token=TOKEN))
    files = {Path(file["path"]).name: file for file in config["write_files"]}
    boot = json.loads(files["bootstrap.json"]["content"])
    assert boot == {
        "control_plane_url": "https://control.example", "node_id": "node-1", "token": TOKEN, "power_off": True,
    }  # fmt: skip
    assert {name for name, file in files.items() if TOKEN in file["content"]} == {"bootstrap.json", "authorization"}
    assert files["bootstrap.json"]["permissions"] == files["authorization"]["permissions"] == "0600"
    assert TOKEN not in json.dumps(config["runcmd"])
    assert config["runcmd"][-1] == ["systemctl", "enable", "--now", "taskflow-agent.service"]


def test_the_agent_is_started_again_whatever_ends_it_and_sessions_outlive_it() -> None:
    """It waits for no container runtime, and systemd kills nothing but the agent itself."""
    config = _config(user_data(node_id="node-1", control_plane_url="https://control.example/", bootstrap_token=TOKEN))
    unit = next(file["content"] for file in config["write_files"] if file["path"].endswith("-agent.service"))
    lines = unit.splitlines()
    assert {"Restart=always", "KillMode=process", "StartLimitIntervalSec=0"} <= set(lines)
    assert f"RestartPreventExitStatus={protocol.AGENT_UNWANTED}" in lines, "but one whose server is being shut down"
    assert "docker" not in unit
    (started,) = [line for line in lines if line.startswith("ExecStart=")]
    assert started.endswith("agent.pyz --root /var/lib/taskflow/node --bootstrap /var/lib/taskflow/bootstrap.json")


def test_one_that_is_too_long_is_refused_before_anything_is_bought() -> None:
    """The provider would cut it, or say so after the purchase."""
    with pytest.raises(OrderInvalid, match="bytes"):
        user_data(node_id="n", control_plane_url="https://" + "x" * USER_DATA_BYTES_MAX, bootstrap_token="t")


def test_ca_certificates_that_can_not_be_read_are_said_before_anything_is_bought(tmp_path: Path) -> None:
    """A server that trusts nobody would never be heard of."""
    (tmp_path / "ca.pem").write_text("a certificate")
    assert ca_certificates(Settings()) == ""
    assert ca_certificates(dataclasses.replace(Settings(), public_ca_file=str(tmp_path / "ca.pem"))) == "a certificate"
    with pytest.raises(OrderInvalid, match="TASKFLOW_PUBLIC_CA_FILE"):
        ca_certificates(dataclasses.replace(Settings(), public_ca_file=str(tmp_path / "none.pem")))


# --- what a server does with it


class ControlPlane(ThreadingHTTPServer):
    """Remembers what it is told; serves the agent when it has one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[tuple[str, str, str | None]] = []
        self.agent: bytes | None = AGENT
        self.scheme = "http"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.scheme}://localhost:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that does not trust us is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: ControlPlane

    def _answer(self) -> None:
        self.server.heard.append((self.command, self.path, self.headers.get("Authorization")))
        body = b"{}" if self.command == "POST" else self.server.agent
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    do_GET = do_POST = _answer  # noqa: N815  names of the standard library

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def control_plane() -> Iterator[ControlPlane]:
    """A real one."""
    server = ControlPlane()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class NewServer:
    """Does what cloud-init does with its configuration, below a directory of its own instead of ``/``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        curl = shutil.which("curl")
        if curl is None:
            pytest.skip("there is no curl here")
        for name, then in (("systemctl", "true"), ("curl", f'exec {curl} "$@"')):
            stand_in = self.bin / name
            stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >> {root}/commands\n{then}\n')
            stand_in.chmod(0o755)

    def boot(self, text: str) -> list[str]:
        """Write the files, run the commands one after the other whatever becomes of each; what was run."""
        below = text.replace("/var/lib/taskflow", f"{self.root}/home").replace("/etc/", f"{self.root}/etc/")
        config = _config(below.replace('"30"', '"0"'))  # who refuses here does so at once
        for file in config["write_files"]:
            path = Path(file["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file["content"])
            path.chmod(int(file["permissions"], 8))
        for command in config["runcmd"]:
            self.run(command)
        return self.ran()

    def run(self, command: list[str]) -> list[str]:
        """Run a command, whatever becomes of it; what was run since the boot."""
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}", "HOME": str(self.root)}
        subprocess.run(command, env=environment, check=False, capture_output=True, timeout=60)
        return self.ran()

    def ran(self) -> list[str]:
        """What was run since the boot."""
        return (self.root / "commands").read_text().splitlines()

    def unit(self, name: str) -> str:
        """A unit of ours."""
        return (self.root / f"etc/systemd/system/taskflow-{name}").read_text()


@pytest.fixture
def server(tmp_path: Path) -> NewServer:
    """A machine that boots for the first time."""
    return NewServer(tmp_path)


def test_a_server_says_that_it_booted_fetches_the_agent_says_so_and_starts_it(
    server: NewServer, control_plane: ControlPlane
) -> None:
    """In this order, with the token in a header that no other process of the server sees."""
    ran = server.boot(user_data(node_id="node-1", control_plane_url=control_plane.url, bootstrap_token=TOKEN))
    assert control_plane.heard == [
        ("POST", "/callbacks/nodes/node-1/boot/booted", f"Bearer {TOKEN}"),
        ("GET", "/agent.pyz", None),
        ("POST", "/callbacks/nodes/node-1/boot/agent_fetched", f"Bearer {TOKEN}"),
    ]
    assert (server.root / "home/agent.pyz").read_bytes() == AGENT
    assert stat.S_IMODE((server.root / "home/node").stat().st_mode) == 0o700
    assert stat.S_IMODE((server.root / "home/bootstrap.json").stat().st_mode) == 0o600
    assert [line for line in ran if TOKEN in line] == []
    assert not (server.root / "home/authorization").exists()  # the agent has it in its own file, until it used it
    assert ran[-1] == "systemctl enable --now taskflow-agent.service"
    assert any(line.startswith("systemctl mask --now apt-daily.timer") for line in ran)


@pytest.mark.parametrize("has_order", [False, True])
def test_a_server_without_an_order_ends_itself_after_an_hour(
    server: NewServer, control_plane: ControlPlane, has_order: bool
) -> None:
    """Whatever kept its agent from it, the agent's own absence included: systemd alone does it. With an order, nothing."""
    control_plane.agent = None
    ran = server.boot(user_data(node_id="node-1", control_plane_url=control_plane.url, bootstrap_token=TOKEN))
    begun = ran.index("systemctl enable --now taskflow-unclaimed.timer")
    assert ran.index("systemctl daemon-reload") < begun < [line.split()[0] for line in ran].index("curl", 1)
    assert "OnBootSec=3600" in server.unit("unclaimed.timer").splitlines()
    if has_order:
        (server.root / "home/node/order.json").write_text("{}")
    (command,) = re.findall("^ExecStart=(.*)$", server.unit("unclaimed.service"), re.MULTILINE)
    assert server.run(shlex.split(command)) == ran + ([] if has_order else ["systemctl poweroff"])


def test_a_server_is_not_ended_while_its_agent_is_still_waited_for() -> None:
    """Who waits longer than an hour for an agent says so to the server."""
    text = user_data(node_id="n", control_plane_url="https://c.example", bootstrap_token=TOKEN, ready_s=7200.0)
    (timer,) = [file for file in _config(text)["write_files"] if file["path"].endswith(".timer")]
    assert "OnBootSec=7200" in timer["content"].splitlines()


def test_its_units_are_what_systemd_takes(tmp_path: Path) -> None:
    """As systemd itself judges them."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    config = _config(user_data(node_id="n", control_plane_url="https://c.example", bootstrap_token=TOKEN))
    units = [file for file in config["write_files"] if "/systemd/" in file["path"]]
    paths = [tmp_path / Path(file["path"]).name for file in units]
    for path, file in zip(paths, units, strict=True):
        path.write_text(file["content"])
    done = subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if "taskflow" in line and "not executable" not in line] == []


def test_a_server_that_can_not_fetch_the_agent_does_not_say_that_it_did(
    server: NewServer, control_plane: ControlPlane
) -> None:
    """How far it came is what people look for."""
    control_plane.agent = None
    server.boot(user_data(node_id="node-1", control_plane_url=control_plane.url, bootstrap_token=TOKEN))
    assert [path for _, path, _ in control_plane.heard] == ["/callbacks/nodes/node-1/boot/booted", "/agent.pyz"]
    assert not (server.root / "home/agent.pyz").exists()


def _certificate() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "control plane")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_ca_of_ones_own_is_what_the_control_plane_is_trusted_by(
    server: NewServer, control_plane: ControlPlane, trusted: bool
) -> None:
    """By curl and by the agent. Without it nothing is told to who answers there, the token least of all."""
    certificate, key = _certificate()
    (server.root / "shown.pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.root / "shown.pem")
    control_plane.socket = context.wrap_socket(control_plane.socket, server_side=True, do_handshake_on_connect=False)
    control_plane.scheme = "https"
    server.boot(
        user_data(
            node_id="node-1", control_plane_url=control_plane.url, bootstrap_token=TOKEN,
            ca_certificates=certificate if trusted else _certificate()[0],
        )
    )  # fmt: skip
    assert [path.rpartition("/")[2] for _, path, _ in control_plane.heard] == (
        ["booted", "agent.pyz", "agent_fetched"] if trusted else []
    )
    boot = json.loads((server.root / "home/bootstrap.json").read_text())
    assert Path(boot["ca_file"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
