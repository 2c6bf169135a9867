"""A control plane for the agent's tests: a real HTTP server that checks and records callbacks and can misbehave."""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from taskflow import signing

SIGNATURE_AGE_S = 60.0


@dataclass(frozen=True)
class Callback:
    """One request that arrived. ``token`` is what it was signed with, or its bearer; ``key_id`` what it said of that."""

    path: str
    token: str
    key_id: str
    body: dict[str, Any]


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class FakeControlPlane:
    """Records callbacks. ``fault(callback)`` may return a status to answer instead, or 0 to drop the answer.

    A callback that none of ``tokens`` signed is refused with 401 and stands in ``refused``. ``answers`` are what callbacks
    are answered, by the last word of their path. ``offset_s``: how far its clock is ahead of this machine's. ``refusal``:
    what stands in an answer with the status of a fault; without ``error`` it is something else that answers in its place.
    """

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}
        self.offset_s = 0.0
        self.refusal: dict[str, Any] = {"error": {"code": "fault", "message": "asked for by the test"}}
        self.refused: list[tuple[str, str]] = []
        self.callbacks: list[Callback] = []
        self.chunks: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        self.changed_chunks: list[int] = []
        self.fault: Callable[[Callback], int | None] = lambda callback: None
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        """Its address; the same after ``down`` and ``up``."""
        return f"http://127.0.0.1:{self._port}"

    def up(self) -> None:
        """Listen."""
        plane = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                status, body = plane._receive(self.path, self.headers.get("Authorization", ""), self.rfile.read(length))
                if status == 0:
                    self.close_connection = True
                    return
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(plane.now() if timestamp is None else timestamp)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def down(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def now(self) -> float:
        """Its time."""
        return time.time() + self.offset_s

    def _receive(self, path: str, authorization: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path.endswith("/bootstrap") or "/boot/" in path:
            token = authorization.removeprefix("Bearer ")
            return self._take(Callback(path, token, "", json.loads(body or b"{}")))
        try:
            claim, token = self._signer(path, authorization, body)
        except signing.SignatureRefused as refused:
            with self._lock:
                self.refused.append((path, refused.code))
            return 401, {"error": {"code": refused.code, "message": str(refused)}}
        return self._take(Callback(path, token, claim.key_id, json.loads(body)))

    def _signer(self, path: str, authorization: str, body: bytes) -> tuple[signing.Claim, str]:
        claim = signing.read(authorization)
        scope, subject, _ = claim.key_id.split(":")
        if not path.startswith(f"/callbacks/{scope}s/{subject}/"):
            raise signing.SignatureRefused("wrong", "the key is of something else")
        last: signing.SignatureRefused | None = None
        for token in sorted(self.tokens):
            try:
                signing.check(claim, token, method="POST", target=path, now=self.now(), max_age_s=SIGNATURE_AGE_S)
                signing.check_body(claim, body)
                return claim, token
            except signing.SignatureRefused as refused:
                if last is None or refused.code == "clock":
                    last = refused
        assert last is not None
        raise last

    def _take(self, callback: Callback) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.callbacks.append(callback)
            status = self.fault(callback)
            if status is not None and status != 0:
                return status, self.refusal
            body: dict[str, Any] = dict(self.answers.get(callback.path.rpartition("/")[2], {}))
            if callback.path.endswith("/logs"):
                chunks, number = self.chunks[callback.path], callback.body["number"]
                data = base64.b64decode(callback.body["data"])
                if chunks.setdefault(number, data) != data:
                    self.changed_chunks.append(number)
                body = {"next": next(n for n in range(1, len(chunks) + 2) if n not in chunks)}
            return (200 if status is None else 0), body

    def received(self, path_end: str) -> list[Callback]:
        """The callbacks whose path ends so, repeats included."""
        with self._lock:
            return [callback for callback in self.callbacks if callback.path.endswith(path_end)]

    def output(self, session_id: str) -> bytes:
        """The log of a session, put together from its chunks; they must have no gap."""
        with self._lock:
            found = [chunks for path, chunks in self.chunks.items() if f"/{session_id}/" in path]
        if not found:
            return b""
        assert sorted(found[0]) == list(range(1, len(found[0]) + 1)), "chunks have a gap"
        return b"".join(found[0][number] for number in sorted(found[0]))
