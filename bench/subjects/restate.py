"""Restate: its server, and a service of the Python SDK under hypercorn."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.installing import npm_folder, python_of
from bench.subjects import Subject
from bench.subjects.outside import Outside, folder_of, process, wait_for
from taskflow.stack.ports import free_port

_SERVER = {"@restatedev/restate-server": "1.7.12"}
_SDK = {"restate-sdk": "1.3.0", "hypercorn": "0.18.0"}
_CLIENTS = 8


class Restate(Outside):
    """Asked over HTTP by several clients at once: one alone would wait for its log's disk most of the time."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder)
        self._port, self._mine = port, threading.local()
        self._pool = ThreadPoolExecutor(_CLIENTS)

    def ask(self, name: str, argument: Any) -> None:
        """See ``Outside``."""
        calls: list[tuple[str, Any]]
        if name == "start":
            calls = [("/tasks/chain/send", job) for job in argument]
        elif name == "alarm":
            calls = [("/tasks/alarm/send", [job, at]) for job, at in argument.items()]
        elif name == "park":
            calls = [(f"/waiting/{job}/run/send", job) for job in argument]
        else:
            calls = [(f"/waiting/{argument}/signal/send", argument)]
        if len(calls) == 1:
            self._post(calls[0])
        else:
            list(self._pool.map(self._post, calls))

    def _post(self, call: tuple[str, Any]) -> None:
        if not hasattr(self._mine, "http"):
            self._mine.http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        path, body = call
        post(self._mine.http, path, body)


def post(connection: http.client.HTTPConnection, path: str, body: Any) -> None:
    """POST JSON; raises ``RuntimeError`` unless it was accepted."""
    connection.request("POST", path, body=json.dumps(body), headers={"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"restate: {answer.status} {text[:300]!r}")


@contextlib.contextmanager
def restate() -> Iterator[Subject]:
    """On ports of its own."""
    folder_of_server = npm_folder("restate", _SERVER) / "node_modules" / "@restatedev" / "restate-server-linux-x64"
    hypercorn = python_of("restate-sdk", _SDK).parent / "hypercorn"
    ingress, admin, fabric, service = (free_port() for _ in range(4))
    settings = {
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}", "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{fabric}", "RUST_LOG": "warn", "DO_NOT_TRACK": "1",
        "RESTATE_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    with folder_of("restate") as folder:
        server_log, service_log = folder / "server.log", folder / "service.log"
        server = [str(folder_of_server / "bin" / "restate-server"), "--base-dir", str(folder / "data"), "--no-logo"]
        served = [str(hypercorn), "--bind", f"127.0.0.1:{service}", "bench.peers.restate_steps:app"]
        with (
            process([*server, "--node-name", "bench"], folder, server_log, **settings),
            process(served, folder, service_log),
        ):
            wait_for("restate", lambda: _registered(admin, service), server_log)
            yield Restate(folder, ingress)


def _registered(admin: int, service: int) -> bool:
    try:
        post(
            http.client.HTTPConnection("127.0.0.1", admin, timeout=10), "/deployments",
            {"uri": f"http://127.0.0.1:{service}", "force": True},
        )  # fmt: skip
    except (OSError, RuntimeError):
        return False
    return True


def versions() -> dict[str, str]:
    """What of it was measured."""
    return _SERVER | _SDK
