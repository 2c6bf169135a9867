"""What an answer of a node agent, or none, becomes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taskflow.errors import CapacityError, OutcomeUnknown, PermanentError, StepError, TransientError
from taskflow.nodes.agent_client import AgentClient


class TinyAgent(ThreadingHTTPServer):
    """Answers every request with ``said``; with None it keeps silent until the test ends."""

    daemon_threads = True
    said: tuple[int, bytes] | None = (200, b'{"status": "ready"}')

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.over = threading.Event()
        self.seen: list[tuple[str, str, str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: TinyAgent

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
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
    return AgentClient(f"http://127.0.0.1:{server.server_port}/", "the-token", 0.3)


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (404, b'{"code": "unknown", "message": "no"}', PermanentError, "agent_unknown"),
        (409, b'{"code": "fenced", "message": "no"}', PermanentError, "agent_fenced"),
        (410, b'{"code": "deleted", "message": "no"}', PermanentError, "agent_deleted"),
        (401, b"", PermanentError, "agent_refused"),
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


def test_a_request_carries_the_nodes_token_and_its_ids(agent: TinyAgent) -> None:
    """The ids in the path make a repeat harmless."""
    client(agent).put_session("ws-1", "session-1", {"fence": 1})
    client(agent).delete_workspace("ws-1", 7)
    assert agent.seen == [
        ("PUT", "/v1/workspaces/ws-1/sessions/session-1", "Bearer the-token"),
        ("DELETE", "/v1/workspaces/ws-1?fence=7", "Bearer the-token"),
    ]


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
    nobody = AgentClient(f"http://127.0.0.1:{port}", "t", 0.3)
    with pytest.raises(TransientError) as raised:
        nobody.put_workspace("ws-1", {"secrets": {"A": "s3cret-value"}})
    assert raised.value.code == "agent_unreachable"
    assert "s3cret-value" not in str(raised.value.as_dict())
    assert nobody.is_alive() is False


def test_an_answering_agent_is_alive(agent: TinyAgent) -> None:
    """Health needs no token."""
    assert client(agent).is_alive() is True
    assert agent.seen == [("GET", "/health", None)]
