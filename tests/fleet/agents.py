"""Node agents of a bought server, in this process: real HTTP in both directions, the wire contract, and nothing else."""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from taskflow import protocol, signing
from taskflow.nodes.providers.base import NodeOrder
from tests.support.fake_agent import FakeAgent, Plan
from tests.support.fake_cloud import FakeServer

log = logging.getLogger(__name__)

_FINAL = frozenset((400, 401, 403, 404, 409, 410, 413))
_RESEND_S = 0.5


class RealPlanner:
    """Does things later, in a few threads of its own."""

    def __init__(self, threads: int = 6) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._work, name=f"planner-{number}", daemon=True).start()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do ``act`` in ``seconds``."""
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), act))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                act = heapq.heappop(self._due)[2]
            try:
                act()
            except Exception:
                log.exception("a fake agent failed")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hung up is no fault of ours."""


class HttpAgent(FakeAgent):
    """The agent of one server. What it was told survives its restarts, as what a real one keeps on its disk does."""

    def __init__(self, order: NodeOrder, planner: RealPlanner, plan: Plan, control_plane_url: str) -> None:
        super().__init__(order, None, planner, plan)  # type: ignore[arg-type]
        self._lock = threading.RLock()
        self._url = control_plane_url
        self._http = requests.Session()
        self.wrong_tokens = 0
        self._server: ThreadingHTTPServer | None = None
        self.listen(0)

    # --- listening

    def listen(self, port: int) -> None:
        """Begin, or begin again, to answer."""
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else b""
                status, answer = agent.serve(self.command, self.path, self.headers.get("Authorization", ""), body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_DELETE = do_POST = _serve  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name=f"agent-{self.order.label}", daemon=True).start()

    def hang_up(self) -> None:
        """Answer nothing any more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def restart(self, away_s: float) -> None:
        """Go away for a while; what it knows stays."""
        if self._server is None or not self.alive:
            return
        port = self._server.server_port
        self.hang_up()

        def back() -> None:
            if self.alive:
                self.listen(port)

        self._planner.after(away_s, back)

    def serve(self, method: str, target: str, authorization: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """One request of the control plane."""
        refused = self.refusal(method, target, authorization, body, time.time())
        if refused is not None:
            self.wrong_tokens += 1
            return refused
        parts = urlsplit(target)
        with self._lock:
            return self.answer(method, parts.path, parse_qs(parts.query), json.loads(body) if body else None)

    # --- telling

    def boot(self) -> None:
        """Say ready, and go on beating."""
        if not self.alive:
            return
        if self._server is not None:
            path = protocol.route(protocol.CALLBACK_NODE_HEARTBEAT, node_id=self.order.node_id)
            with self._lock:
                beat = self.beat()
            token, generation = self.node_key
            answer = self.post(path, f"node:{self.order.node_id}:{generation}", token, beat)
            if answer is not None and answer.status_code in (404, 410):
                return
            if answer is not None and answer.ok:
                with self._lock:
                    self.take_tokens(protocol.load(protocol.HeartbeatAnswerSchema, answer.json()))
        self._planner.after(self.order.agent["heartbeat_interval_s"], self.boot)

    def finish_workspace(self, workspace_id: str, *, tell: bool = True) -> None:
        """The workspace is ready."""
        with self._lock:
            super().finish_workspace(workspace_id, tell=tell)

    def finish_session(self, session_id: str, said: Mapping[str, Any] | None = None, *, tell: bool = True) -> None:
        """The session ended."""
        with self._lock:
            super().finish_session(session_id, said, tell=tell)

    def send(self, tell: Any, subject: str, payload: dict[str, Any], token: str) -> None:
        """A callback, repeated until it is answered for good."""
        workspace_id = subject if tell == self._tell_workspace else self.sessions[subject]["workspace_id"]
        if tell == self._tell_workspace:
            path = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id=subject)
        else:
            path = protocol.route(protocol.CALLBACK_SESSION_OUTCOME, workspace_id=workspace_id, session_id=subject)

        generation = self.workspaces[workspace_id]["generation"]

        def attempt() -> None:
            answer = self.post(path, f"workspace:{workspace_id}:{generation}", token, payload)
            status = 0 if answer is None else answer.status_code
            if not (200 <= status < 300 or status in _FINAL) and self.alive:
                self._planner.after(_RESEND_S, attempt)

        self._planner.after(0.0, attempt)

    def post(self, path: str, key_id: str, token: str, payload: Mapping[str, Any]) -> requests.Response | None:
        """Send once, signed; None when nobody answered."""
        body = json.dumps(payload).encode()
        signed = signing.sign(token, key_id, method="POST", target=path, body=body, now=time.time())
        headers = {"Authorization": signed, "Content-Type": "application/json"}
        try:
            answer = requests.post(self._url + path, data=body, headers=headers, timeout=10)
        except requests.RequestException:
            return None
        return answer


class Servers:
    """What the cloud's servers do once they were bought: read their user data, fetch their order, run an agent."""

    def __init__(self, planner: RealPlanner, plan: Plan, control_plane_url: Callable[[], str]) -> None:
        self._planner, self._plan, self._url = planner, plan, control_plane_url
        self._lock = threading.Lock()
        self.agents: dict[str, HttpAgent] = {}
        self.gone: set[str] = set()

    def bought(self, server: FakeServer) -> None:
        """Boot it."""
        self._planner.after(self._plan.boot_s or 0.0, lambda: self._boot(server, secrets.token_hex(16)))

    def deleted(self, server: FakeServer) -> None:
        """Switch it off."""
        with self._lock:
            self.gone.add(server.server_id)
            agent = self.agents.get(server.server_id)
        if agent is not None:
            agent.alive = False
            threading.Thread(target=agent.hang_up, daemon=True).start()

    def _boot(self, server: FakeServer, claim: str) -> None:
        with self._lock:
            if server.server_id in self.gone:
                return
        config = json.loads(server.user_data.removeprefix("#cloud-config\n"))
        given = next(file for file in config["write_files"] if file["path"].endswith("bootstrap.json"))
        boot = json.loads(given["content"])
        path = protocol.route(protocol.CALLBACK_NODE_BOOTSTRAP, node_id=boot["node_id"])
        ask = {"protocol_version": protocol.PROTOCOL_VERSION, "claim": claim}
        try:
            answer = requests.post(
                boot["control_plane_url"] + path,
                json=ask,
                headers={"Authorization": f"Bearer {boot['token']}"},
                timeout=10,
            )
        except requests.RequestException:
            self._planner.after(_RESEND_S, lambda: self._boot(server, claim))
            return
        if answer.status_code in _FINAL:
            return
        if not answer.ok:
            self._planner.after(_RESEND_S, lambda: self._boot(server, claim))
            return
        said = protocol.load(protocol.NodeOrderSchema, answer.json())
        order = NodeOrder(said["node_id"], server.name, said)
        agent = HttpAgent(order, self._planner, self._plan, boot["control_plane_url"])
        with self._lock:
            gone = server.server_id in self.gone
            self.agents[server.server_id] = agent
        if gone:
            agent.alive = False
            agent.hang_up()
            return
        agent.boot()
