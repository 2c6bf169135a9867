"""The agent on a network: TLS, signatures, clocks that disagree, callers that say nothing."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from taskflow import signing
from taskflow.agent import server
from taskflow.agent.clock import PlaneClock
from taskflow.agent.places import Tls, read_order
from taskflow.agent.problems import StartRefused
from taskflow.certificates import AgentAuthority
from taskflow.settings import Settings
from taskflow.vault import Vault
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import AGENT_TOKEN, NODE_ID, SESSION, WS, WS_2, AgentRig
from tests.support.waiting import wait_until

HOUR_S = 3600.0


def authority(secret: str = "a-secret-key-for-tests") -> AgentAuthority:
    """The CA of one installation."""
    return AgentAuthority(Vault(secret), Settings())


class _Pinned(HTTPAdapter):
    """Trusts one CA, and the certificate of one node whatever its address."""

    def __init__(self, ca: AgentAuthority, node_id: str) -> None:
        self._ca, self._name = ca, ca.name_of(node_id)
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(
            *args, **kwargs, ssl_context=self._ca.context(), server_hostname=self._name, assert_hostname=self._name
        )


def ask(agent: AgentRig, ca: AgentAuthority, node_id: str = NODE_ID) -> requests.Response:
    """The node's state, over TLS checked as the control plane does."""
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", _Pinned(ca, node_id))
    headers = {"Authorization": agent.sign("GET", "/v1/node", b"")}
    return session.get(agent.address_file()["address"] + "/v1/node", headers=headers, timeout=30)


@pytest.fixture
def tls_agent(rig: AgentRig) -> AgentRig:
    """A running agent that others reach, on all addresses, with a certificate."""
    shown = authority().tls_of(NODE_ID)
    tls = {"certificate": shown.certificate, "private_key": shown.private_key}
    rig.order(tls=tls, listen_host="0.0.0.0")
    return rig.start()


def test_an_agent_with_a_certificate_speaks_tls_only(tls_agent: AgentRig) -> None:
    """The control plane reaches it by its node's name and this CA; plain HTTP, another CA and another name do not."""
    answer = ask(tls_agent, authority())
    assert answer.status_code == 200
    address = answer.json()["address"]
    assert address == tls_agent.address_file()["address"]
    assert address.startswith("https://127.0.0.1:"), "from where it reaches the control plane"
    with pytest.raises(requests.exceptions.SSLError):
        ask(tls_agent, authority("another-secret-key-for-tests"))
    with pytest.raises(requests.exceptions.SSLError):
        ask(tls_agent, authority(), "node-2")
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(address.replace("https", "http") + "/health", timeout=10)
    assert ask(tls_agent, authority()).status_code == 200, "and it goes on after all these"


def test_old_versions_of_tls_are_not_spoken(tls_agent: AgentRig) -> None:
    """Below TLS 1.2 there is no handshake."""
    parts = urlsplit(tls_agent.address_file()["address"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def test_the_private_key_is_for_nobody_else(tls_agent: AgentRig) -> None:
    """What lies of it on the disk can be read by this user only, and no log line holds it."""
    folder = tls_agent.root / "tls"
    assert folder.stat().st_mode & 0o077 == 0
    assert [file.stat().st_mode & 0o777 for file in sorted(folder.iterdir())] == [0o600, 0o600]
    assert "PRIVATE KEY" not in tls_agent.log.read_text()


def test_a_certificate_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    """A wrong certificate is named at once, not with the first connection."""
    with pytest.raises(StartRefused, match="certificate"):
        server.tls_context(Tls("no certificate", "no key"), tmp_path)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_callers_that_say_nothing_hold_nobody_up(rig: AgentRig, over_tls: bool) -> None:
    """More silent connections, and more half requests, than there are threads: the control plane is answered at once."""
    if over_tls:
        shown = authority().tls_of(NODE_ID)
        rig.order(tls={"certificate": shown.certificate, "private_key": shown.private_key})
    agent = rig.start()
    parts = urlsplit(agent.address_file()["address"])
    silent = [socket.create_connection((parts.hostname, parts.port), timeout=10) for _ in range(40)]
    half = [socket.create_connection((parts.hostname, parts.port), timeout=10) for _ in range(6)]
    for connection in half:
        connection.sendall(b"\x16\x03\x01" if over_tls else b"GET /v1/node HT")
    begun = time.monotonic()
    answer = ask(agent, authority()) if over_tls else agent.call("GET", "/v1/node")
    assert answer.status_code == 200
    assert time.monotonic() - begun < 8.0, "less than the time after which a silent one is dropped"
    for connection in silent + half:
        connection.close()


def test_a_request_that_trickles_in_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte after the other is no silence, but a whole request has its time; the answer takes as long as it takes."""
    monkeypatch.setattr(server, "REQUEST_S", 0.5)
    answered = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        answered.wait(1.0)  # longer than a request may need to arrive
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    listener = server.listen("127.0.0.1", 0, None)
    address = listener.getsockname()
    web = server.AgentServer(listener, app, None)
    threading.Thread(target=web.start, daemon=True).start()
    wait_until(lambda: web.ready, "the server is up")
    try:
        with socket.create_connection(address, timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nX: ")

            def trickle() -> bool:
                try:
                    slow.sendall(b"x")
                    return not slow.recv(100) if select.select([slow], [], [], 0)[0] else False
                except OSError:
                    return True

            wait_until(trickle, "it is broken off", timeout_s=8.0)
        assert requests.get(f"http://{address[0]}:{address[1]}/", timeout=10).text == "ok"
    finally:
        web.stop()


def test_a_body_that_is_too_large_is_not_read(agent: AgentRig) -> None:
    """413 from the declared length alone, whoever asks."""
    parts = urlsplit(agent.address_file()["address"])
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(f"PUT /v1/workspaces/w HTTP/1.1\r\nHost: a\r\nContent-Length: {10**9}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(100)
    assert agent.call("GET", "/v1/node").status_code == 200


def test_a_signature_is_good_for_one_request(agent: AgentRig) -> None:
    """Made with another token or key, for another path, method, query or body: refused, and nothing is done."""
    agent.ready()
    path, other = agent.workspace_path(WS), agent.workspace_path(WS_2)
    delete = f"{path}?fence=1"
    wrong = {
        "another token": ("GET", path, b"", agent.sign("GET", path, b"", token="another")),
        "another key": ("GET", path, b"", agent.sign("GET", path, b"", key_id=f"node:{NODE_ID}:0")),
        "another path": ("GET", path, b"", agent.sign("GET", other, b"")),
        "another method": ("DELETE", delete, b"", agent.sign("GET", delete, b"")),
        "another query": ("DELETE", delete, b"", agent.sign("DELETE", f"{path}?fence=2", b"")),
        "no query": ("DELETE", delete, b"", agent.sign("DELETE", path, b"")),
        "another body": ("PUT", other, b'{"a": 1}', agent.sign("PUT", other, b'{"a": 2}')),
    }
    for what, (method, target, body, authorization) in wrong.items():
        url = agent.address_file()["address"] + target
        answer = requests.request(method, url, data=body, headers={"Authorization": authorization}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), what
    assert agent.workspace()["status"] == "ready"
    assert agent.call("GET", other).status_code == 404


def test_an_old_signature_is_refused_and_the_answer_says_the_time(agent: AgentRig) -> None:
    """What was overheard is worth nothing after a minute; a caller with a wrong clock learns the node's."""
    wait_until(lambda: agent.control_plane.received("/heartbeat"), "the agent knows the time")
    for off_s in (-61.0, 75.0):
        stale = signing.sign(AGENT_TOKEN, "agent", method="GET", target="/v1/node", body=b"", now=time.time() + off_s)
        answer = agent.call("GET", "/v1/node", headers={"Authorization": stale})
        assert (answer.status_code, answer.json()["code"]) == (401, "clock")
        assert abs(answer.json()["detail"]["time"] - time.time()) < 10
    recent = signing.sign(AGENT_TOKEN, "agent", method="GET", target="/v1/node", body=b"", now=time.time() - 30)
    assert agent.call("GET", "/v1/node", headers={"Authorization": recent}).status_code == 200


@pytest.mark.parametrize("exact", [True, False], ids=["time", "date"])
@pytest.mark.parametrize("offset_s", [HOUR_S, -HOUR_S])
def test_clocks_an_hour_apart_lose_nothing(
    rig: AgentRig, control_plane: FakeControlPlane, offset_s: float, exact: bool
) -> None:
    """The control plane's clock counts, whether it says its time or only dates its answers; both sides are heard."""
    control_plane.offset_s = offset_s
    agent = rig.start()
    wait_until(lambda: control_plane.received("/ready"), "ready is accepted")
    if exact:
        control_plane.answers["heartbeat"] = {"status": "ok", "time": control_plane.now()}
    agent.ready()
    assert agent.run("echo", "said")["exit_code"] == 0
    assert control_plane.output(SESSION) == b"said\n"
    assert {code for _, code in control_plane.refused} == {"clock"}
    assert len(control_plane.refused) == 1, "one refusal told it the time"


def test_a_clock_that_jumps_costs_no_outcome(rig: AgentRig, control_plane: FakeControlPlane) -> None:
    """A 401 is final, but not one that the clock is to blame for: the outcome is signed again and arrives."""
    rig.order(heartbeat_interval_s=HOUR_S)  # a heartbeat would be refused as well, and learn the time first
    agent = rig.start()
    agent.ready()
    wait_until(lambda: control_plane.received(f"/workspaces/{WS}/outcome"), "the ready callback")
    control_plane.offset_s = HOUR_S
    assert agent.session("echo", "said").json()["code"] == "clock"
    control_plane.offset_s = 0.0
    agent.begin("sh", "-c", "until [ -e ../../../../go ]; do sleep 0.05; done; echo said")
    control_plane.offset_s = -HOUR_S
    (agent.root.parent / "go").touch()
    assert agent.outcome()["exit_code"] == 0
    assert control_plane.output(SESSION) == b"said\n"


def test_the_exact_time_is_kept_against_dates_of_others() -> None:
    """A date that a proxy wrote does not move a clock that the control plane set; after a refusal it does."""
    ticks = iter(range(0, 1000, 10))
    clock = PlaneClock(host=lambda: 5000.0, ticks=lambda: float(next(ticks)))
    assert clock.now() == 5000.0, "the machine's own, before anything was said"
    clock.learn(100.0)
    assert clock.now() == 110.0
    clock.learn_date(900.0)
    assert clock.now() < 200.0
    clock.learn_date(900.0, doubted=True)
    assert clock.now() >= 900.0


def test_the_ports_and_hosts_of_the_order_are_used(rig: AgentRig) -> None:
    """A fixed port is taken, and the control plane is told the host it was told to be known by."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rig.order(listen_port=port, advertise_host="2001:db8::7")
    rig.start()
    assert rig.address_file()["address"] == f"http://[2001:db8::7]:{port}"
    assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200


def test_a_wrong_order_is_refused_by_its_field(rig: AgentRig) -> None:
    """What is missing is named; tokens are not shown."""
    order = json.loads((rig.root / "order.json").read_text())
    del order["slots"]
    (rig.root / "order.json").write_text(json.dumps(order))
    with pytest.raises(StartRefused, match="slots") as refused:
        read_order(rig.root)
    assert AGENT_TOKEN not in str(refused.value)
