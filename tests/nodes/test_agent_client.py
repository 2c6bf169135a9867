"""How a node agent is asked and checked, and what its answer, or none, becomes."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from taskflow import signing
from taskflow.certificates import AgentAuthority
from taskflow.errors import CapacityError, OutcomeUnknown, PermanentError, StepError, TransientError
from taskflow.nodes.agent_client import AgentClient, AgentTrust
from taskflow.settings import Settings
from taskflow.vault import Vault

NOW = 1_700_000_000.0


class TinyAgent(ThreadingHTTPServer):
    """Answers every request with ``said``; with None it keeps silent until the test ends."""

    daemon_threads = True
    said: tuple[int, bytes] | None = (200, b'{"status": "ready"}')

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.over = threading.Event()
        self.seen: list[tuple[str, str, str | None]] = []
        self.bodies: list[bytes] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that does not trust us is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: TinyAgent

    def _answer(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        if self.server.said is None:
            self.server.over.wait(10)
            return
        status, body = self.server.said
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = _answer  # noqa: N815  names of the standard library

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def agent() -> Iterator[TinyAgent]:
    """A real server on a free port."""
    server = TinyAgent()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def client(server: TinyAgent) -> AgentClient:
    """A client with little patience."""
    return AgentClient(f"http://127.0.0.1:{server.server_port}/", "the-token", 0.3, now=NOW)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (404, b'{"code": "unknown", "message": "no"}', PermanentError, "agent_unknown"),
        (409, b'{"code": "fenced", "message": "no"}', PermanentError, "agent_fenced"),
        (410, b'{"code": "deleted", "message": "no"}', PermanentError, "agent_deleted"),
        (401, b"", PermanentError, "agent_refused"),
        (401, b'{"code": "clock", "message": "61 s old"}', TransientError, "agent_clock"),
        (429, b"", TransientError, "agent_error"),
        (500, b"<html>", TransientError, "agent_error"),
        (503, b'{"code": "capacity", "message": "full"}', CapacityError, "node_full"),
        (503, b"[]", TransientError, "agent_error"),
        (200, b"<html>", OutcomeUnknown, "agent_unreachable"),
        (200, b"[]", OutcomeUnknown, "agent_unreachable"),
    ],
)
def test_each_answer_becomes_its_error(
    agent: TinyAgent, status: int, body: bytes, kind: type[StepError], code: str
) -> None:
    """Only the type and the code decide what the runner does."""
    agent.said = (status, body)
    with pytest.raises(kind) as raised:
        client(agent).put_workspace("ws-1", {})
    assert type(raised.value) is kind
    assert raised.value.code == code


def test_each_request_is_signed_for_itself_and_its_token_does_not_travel(agent: TinyAgent) -> None:
    """By method, path with query, and body; the ids in the path make a repeat harmless."""
    client(agent).put_session("ws-1", "session-1", {"fence": 1})
    client(agent).delete_workspace("ws-1", 7)
    assert [(method, path) for method, path, _ in agent.seen] == [
        ("PUT", "/v1/workspaces/ws-1/sessions/session-1"), ("DELETE", "/v1/workspaces/ws-1?fence=7"),
    ]  # fmt: skip
    assert agent.bodies == [b'{"fence": 1}', b""]
    for (method, path, authorization), body in zip(agent.seen, agent.bodies, strict=True):
        claim = signing.read(authorization)
        signing.check(claim, "the-token", method=method, target=path, now=NOW + 59, max_age_s=60)
        signing.check_body(claim, body)
        assert claim.key_id == "agent"
        assert "the-token" not in str(authorization)


def test_what_the_environment_says_of_proxies_and_hosts_does_not_count(
    agent: TinyAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a proxy nor a password of a ~/.netrc comes between us and a node of ours."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    client(agent).put_workspace("ws-1", {})
    assert str(agent.seen[0][2]).startswith("Signed agent:")


@pytest.mark.parametrize("status", [404, 410])
def test_looking_for_what_is_not_there_is_no_error(agent: TinyAgent, status: int) -> None:
    """Unknown and deleted are answers to a question, and the end of a deletion."""
    agent.said = (status, b"{}")
    assert client(agent).get_workspace("ws-1") is None
    assert client(agent).get_session("ws-1", "session-1") is None
    client(agent).delete_workspace("ws-1", 1)


def test_no_answer_in_time_means_that_nobody_knows(agent: TinyAgent) -> None:
    """The request was sent: it may have been carried out."""
    agent.said = None
    with pytest.raises(OutcomeUnknown) as raised:
        client(agent).put_workspace("ws-1", {})
    assert raised.value.code == "agent_timeout"
    assert client(agent).is_alive() is False


def test_a_refused_connection_is_tried_again() -> None:
    """Nobody listens: the node starts, or is gone; other signs decide which."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nobody = AgentClient(f"http://127.0.0.1:{port}", "t", 0.3, now=NOW)
    with pytest.raises(TransientError) as raised:
        nobody.put_workspace("ws-1", {"secrets": {"A": "s3cret-value"}})
    assert raised.value.code == "agent_unreachable"
    assert "s3cret-value" not in str(raised.value.as_dict())
    assert nobody.is_alive() is False


def test_an_answering_agent_is_alive(agent: TinyAgent) -> None:
    """Health needs no token."""
    assert client(agent).is_alive() is True
    assert agent.seen == [("GET", "/health", None)]


def authority(secret: str = "a secret key of this test", **settings: str) -> AgentAuthority:
    """The CA of an installation."""
    return AgentAuthority(Vault(secret), dataclasses.replace(Settings(), **settings))  # type: ignore[arg-type]


@pytest.fixture
def tls_agent(agent: TinyAgent, tmp_path: Path) -> TinyAgent:
    """One that shows the certificate of node-1."""
    shown = authority().tls_of("node-1")
    (tmp_path / "shown.pem").write_text(shown.certificate + shown.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "shown.pem")
    agent.socket = context.wrap_socket(agent.socket, server_side=True, do_handshake_on_connect=False)
    return agent


def tls_client(server: TinyAgent, by: AgentAuthority, node_id: str) -> AgentClient:
    """Who asks the agent of ``node_id``, and trusts ``by``."""
    trust = AgentTrust(by.context(), by.name_of(node_id))
    return AgentClient(f"https://127.0.0.1:{server.server_port}", "the-token", 3.0, now=NOW, trust=trust)


def test_over_tls_an_agent_is_known_by_its_nodes_name_not_by_its_address(tls_agent: TinyAgent) -> None:
    """The address may change, and is no name that a public CA would certify."""
    asked = tls_client(tls_agent, authority(), "node-1")
    assert asked.put_workspace("ws-1", {}) == {"status": "ready"}
    assert asked.is_alive() is True


@pytest.mark.parametrize(
    ("secret", "node_id"), [("a secret key of this test", "node-2"), ("another secret key than that", "node-1")]
)
def test_who_can_not_show_the_nodes_certificate_is_told_nothing(
    tls_agent: TinyAgent, secret: str, node_id: str
) -> None:
    """Another node's, another installation's: no request is sent, and it is no living agent either."""
    asked = tls_client(tls_agent, authority(secret), node_id)
    with pytest.raises(OutcomeUnknown) as raised:
        asked.put_workspace("ws-1", {"secrets": {"A": "s3cret-value"}})
    assert raised.value.code == "agent_untrusted"
    assert asked.is_alive() is False
    assert tls_agent.seen == []


def test_no_other_ca_is_trusted_whatever_the_system_and_the_environment_say(
    tls_agent: TinyAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that holds the CA of what answers does not help it: only the installation's own counts."""
    (tmp_path / "bundle.pem").write_text(authority().ca_certificate())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "bundle.pem"))
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "bundle.pem"))
    other = authority("another secret key than that")
    with pytest.raises(OutcomeUnknown, match="certificate"):
        tls_client(tls_agent, other, "node-1").put_workspace("ws-1", {})
    assert tls_agent.seen == []
