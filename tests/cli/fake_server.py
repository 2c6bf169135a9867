"""A server with real sockets that answers as the API does, from a script, and records what it was asked."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "tf_fake-token-never-to-be-shown"
TASK_ID, RUN_ID = "task-1", "run-1"
#: What an act answers that ends the stream.
END = object()


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class FakeServer:
    """One task, its events and its output; ``on_request`` may change them before each answer.

    ``acts``: what happens whenever a stream of events has sent everything; one that returns ``END`` ends the stream.
    ``drop``: that many answers are lost after the request was handled. ``refuse``: (method, path ending) -> status and
    error of the answer.
    """

    task: dict[str, Any] = field(default_factory=lambda: make_task())
    events: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    promises: list[dict[str, Any]] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    providers: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    why: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    token: str = TOKEN
    no_room: bool = False
    drop: int = 0
    refuse: dict[tuple[str, str], tuple[int, dict[str, Any]]] = field(default_factory=dict)
    acts: list[Callable[[], object]] = field(default_factory=list)
    on_request: Callable[[Request], None] | None = None
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None
    _quiet: threading.Event = field(default_factory=threading.Event)  # never set

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def asked(self, method: str, ending: str) -> list[Request]:
        """The requests of that method whose path ends so."""
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]

    def start(self) -> None:
        """Listen, on the port it had before if it had one."""
        fake = self

        class Handler(_Handler):
            server_of = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens any more."""
        if self._server and self._thread:
            server, self._server = self._server, None  # streams end
            server.shutdown()
            server.server_close()
            self._thread.join()

    # --- what happens to the task

    def event(self, kind: str, step: str | None = None, **data: Any) -> None:
        """Append an event."""
        self.events.append(
            {"seq": len(self.events) + 1, "kind": kind, "step": step, "actor": "runner", "run_id": RUN_ID,
             "data": data, "at": "2026-01-01T00:00:00.000Z"}
        )  # fmt: skip

    def walk_to_running(self) -> None:
        """The events up to the running command."""
        self.event("status_changed", **{"from": None, "to": "queued"})
        self.event("step_entered", "workspace_ready", **{"from": "node_selection", "duration_s": 0.02})
        self.event("step_entered", "agent_session", **{"from": "workspace_ready", "duration_s": 1.24})
        self.event("status_changed", **{"from": "delegated", "to": "in_progress"})
        self.event("step_entered", "running", **{"from": "agent_session", "duration_s": 0.1})
        self.task.update(status="in_progress", step="running")

    def end(self, status: str, **changes: Any) -> None:
        """The task ends and is cleaned up."""
        self.event("step_entered", "cleanup", **{"from": "running", "duration_s": 3.0})
        self.event("status_changed", **{"from": "in_progress", "to": status})
        self.event("run_finished", "cleanup", **{"from": "cleanup", "duration_s": 0.05})
        self.ended = True
        self.task.update(status=status, step=None, finished=True, completed_at="2026-01-01T00:00:09.000Z")
        self.task["result"].update(changes.pop("result", {}))
        self.task.update(changes)

    # --- answers

    def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The status and body for ``request``."""
        self.requests.append(request)
        if self.on_request:
            self.on_request(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, error("unauthorized", "the token is not valid")
        for (method, ending), (status, body) in self.refuse.items():
            if request.method == method and request.path.endswith(ending):
                return status, body
        if self.no_room and request.headers.get("Accept") == "text/event-stream":
            return 503, error("no_room_for_streams", "there is no room for a further stream here")
        return self._route(request)

    def stream(self, after: int) -> Iterator[bytes]:
        """The frames of a stream of events, until the server stops or an act ends it."""
        yield f"retry: 1000\n\nid: {after}\n\n".encode()
        while self._server is not None:
            for event in [event for event in self.events if event["seq"] > after]:
                after = event["seq"]
                yield f"id: {after}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n".encode()
            if self.acts and self.acts.pop(0)() is END:
                return
            self._quiet.wait(0.01)

    def _audit(self, limit: int, after: int) -> dict[str, Any]:
        page, rest = self.audit[after : after + limit], self.audit[after + limit :]
        return {"lines": page, "next_cursor": str(after + limit) if rest else None}

    def _tokens(self, request: Request) -> tuple[int, dict[str, Any]]:
        if request.method == "POST":
            return 201, {**request.body, "id": "token-9", "token": "tf_made", "owner": "ada", "owner_id": "owner-1"}
        if request.method == "DELETE":
            return 200, {"id": request.path.split("/")[-1], "revoked": True}
        page = int(request.query.get("cursor", 0))  # one a page
        rest = self.tokens[page + 1 :]
        return 200, {"tokens": self.tokens[page : page + 1], "next_cursor": str(page + 1) if rest else None}

    def _route(self, request: Request) -> tuple[int, dict[str, Any]]:
        path = request.path
        if path == "/api/events":
            return 200, {"events": [], "next": "0.0"}
        after = int(request.query.get("after", 0))
        if (request.method, path) == ("POST", "/api/tasks"):
            self.task.update({k: v for k, v in request.body.items() if k in ("repository", "command", "branch")})
            return 202, self.task
        if path == "/api/tasks":
            return 200, {"tasks": [self.task], "next_cursor": None}
        if path == "/api/runs":
            return 200, {"runs": self.runs, "next_cursor": None}
        if path == "/api/pipelines":
            return 200, {"pipelines": [{"name": "order", "version": 2}, {"name": "export", "version": 1}]}
        if path == "/readyz":
            return 200, {"ready": True, "checks": {"redis": "ok"}}
        if path == "/api/nodes":
            return (
                (202, self.nodes[0]) if request.method == "POST" else (200, {"nodes": self.nodes, "next_cursor": None})
            )
        if path.startswith("/api/providers"):
            wanted = (request.body or {}).get("provider")
            found = [one for one in self.providers if wanted in (None, one["name"])]
            return (202 if request.method == "POST" else 200), {"providers": found}
        if path == "/api/sweeps":
            return 200, {"sweeps": self.sweeps, "promises": self.promises}
        if path.startswith("/api/tokens"):
            return self._tokens(request)
        if path == "/api/sign-in-links":
            return 201, {"path": "/login?code=tf_code_once", "expires_at": "2026-01-01T00:10:00.000Z"}
        if path == "/api/whoami":
            return 200, {"owner": "ada", "owner_id": "owner-1", "token_id": "token-1", "name": "laptop",
                         "role": "viewer", "browser_id": None, "expires_at": None}  # fmt: skip
        if path == "/api/audit":
            return 200, self._audit(int(request.query["limit"]), int(request.query.get("cursor", 0)))
        if path.endswith("/events"):
            found_events = [event for event in self.events if event["seq"] > after][
                : int(request.query.get("limit", 200))
            ]
            return 200, {"events": found_events, "next": found_events[-1]["seq"] if found_events else after}
        if path.startswith("/api/nodes/"):
            node_id = path.split("/")[3]
            shown = next(node for node in self.nodes if node["id"] == node_id)
            if request.method == "POST":
                self.nodes = [node for node in self.nodes if node["id"] != node_id]
            return 202, shown
        if not path.startswith((f"/api/tasks/{TASK_ID}", f"/api/runs/{RUN_ID}")):
            return 404, error("not_found", "no such task", fields={"task_id": "unknown"})
        if path.endswith("/runs"):
            return 200, {"runs": self.runs, "next_cursor": None}
        if path.endswith("/logs"):
            numbered = [
                {"number": n, "data": base64.b64encode(data).decode()}
                for n, data in enumerate(self.chunks, 1)
                if n > after
            ]
            return 200, {"chunks": numbered, "next": len(self.chunks), "ended": self.ended}
        if path.endswith("/why"):
            return 200, {"step": self.task["step"], **self.why}
        return 200, self.task


def make_task(**changes: Any) -> dict[str, Any]:
    """A task as the API shows it."""
    return {
        "id": TASK_ID, "title": "make hello", "status": "queued", "step": "node_selection", "finished": False,
        "cancel_requested": False, "run_id": RUN_ID, "run_number": 1, "repository": "/srv/repo", "branch": "main",
        "command": ["make", "hello"], "setup_command": None, "env": {}, "has_secrets": False, "push": True,
        "time_limit_s": 60.0, "priority": 0, "labels": {}, "node_id": None, "placement": None,
        "result": {"output_branch": None, "commit": None, "pushed": None, "changed_files": None, "exit_code": None},
        "error": None, "late_result": None, "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z", "started_at": None, "completed_at": None,
        **changes,
    }  # fmt: skip


def make_node(node_id: str, **more: Any) -> dict[str, Any]:
    """A node as the API shows it."""
    return {
        "id": node_id, "name": node_id, "provider": "local", "status": "warm", "slots": 4, "live_workspaces": 0,
        "address": None, "heartbeat_age_s": 1.5, "load1": 0.2, "error": None, "size": "",
        "location": "", **more,
    }  # fmt: skip


def error(code: str, message: str, **more: Any) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"code": code, "message": message, "request_id": "r1", **more}}


class _Handler(BaseHTTPRequestHandler):
    server_of: FakeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        parts = urlsplit(self.path)
        request = Request(
            self.command, parts.path, {k: v[0] for k, v in parse_qs(parts.query).items()},
            json.loads(raw) if raw else None, dict(self.headers),
        )  # fmt: skip
        status, body = self.server_of.answer(request)
        self.close_connection = True  # a stopped server answers nobody
        if self.server_of.drop > 0:
            self.server_of.drop -= 1
            return
        if status == 200 and request.headers.get("Accept") == "text/event-stream":
            self._stream(int(request.query.get("after", 0)))
            return
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        if status == 302:
            self.send_header("Location", f"{self.server_of.url}/api/tasks/{TASK_ID}/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, after: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):  # who listened has gone
            for part in self.server_of.stream(after):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            if self.server_of.is_up:
                self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
