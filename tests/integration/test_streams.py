"""Streams over the real server process: how soon news comes, who makes room for whom, and what a stop waits for."""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import requests
from sqlalchemy import insert

from taskflow.bootstrap import App, bootstrap
from taskflow.clock import ManualClock
from taskflow.db.models import LogChunk
from taskflow.settings import Settings
from taskflow.stack.ports import free_port
from taskflow.vault import Vault
from tests.conftest import ValkeyDatabase
from tests.support.processes import die_with_parent, end_process
from tests.support.waiting import wait_until
from tests.web.world import SPEC, RecordingPublisher, World

pytestmark = pytest.mark.integration

#: The server as ``taskflow up`` starts it, but for its patience with clients that don't read.
_SERVER = """
import sys
import web.streams
web.streams.STUCK_S = 1.0
from gunicorn.app.wsgiapp import run
sys.argv = ["gunicorn", "-c", "python:taskflow.stack.gunicorn_conf", "web:create_app()"]
run()
"""
STREAMS_MAX = 3


class Server:
    """A web process of its own, and the service over the same stores in this one."""

    def __init__(self, app: App, environ: dict[str, str], log: Path) -> None:
        self.app, self.log = app, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        made = app.service.accounts.create_token(name="t")
        self.caller = app.service.accounts.authenticate(made["token"], "api")
        self.headers = {"Authorization": f"Bearer {made['token']}", "Accept": "text/event-stream"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVER], env={**environ, "TASKFLOW_PORT": str(self.port)}, stdout=output,
                stderr=output, cwd=log.parent, preexec_fn=die_with_parent(signal.SIGKILL),
            )  # fmt: skip
        wait_until(self._serves, f"the server answers; see {log}")

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthz", timeout=2).ok
        except requests.RequestException:
            return False

    def submit(self) -> dict[str, Any]:
        """A task."""
        task: dict[str, Any] = self.app.service.tasks.submit(self.caller, SPEC)[0]
        return task

    def follow(self, path: str, **headers: str) -> requests.Response:
        """An open stream, refused or not."""
        return requests.get(self.url + path, headers={**self.headers, **headers}, stream=True, timeout=20)


@pytest.fixture
def server(database_url: str, valkey: ValkeyDatabase, settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """It, on each of the two databases."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")} | {
        "TASKFLOW_DATA_DIR": str(tmp_path),
        "TASKFLOW_DATABASE_URL": database_url,
        "TASKFLOW_REDIS_URL": valkey.url,
        "TASKFLOW_SECRET_KEY": settings.secret_key,
        "TASKFLOW_KEY_PREFIX": settings.key_prefix,
        "TASKFLOW_WEB_PROCESSES": "1",
        "TASKFLOW_STREAMS_MAX": str(STREAMS_MAX),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    app = bootstrap(Settings.from_env(environ))
    made = Server(app, environ, tmp_path / "web.log")
    yield made
    end_process(made.process, signal.SIGTERM)
    app.close()


def _events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """The data of each event, as it comes."""
    assert answer.status_code == 200, answer.text
    for line in answer.iter_lines(chunk_size=1):
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def test_a_commit_is_seen_on_open_streams_within_a_second(server: Server) -> None:
    """By everybody who listens: to the task, and to everything."""
    task = server.submit()
    with (
        closing(server.follow(f"/api/tasks/{task['id']}/events")) as one,
        closing(server.follow("/api/events")) as all_,
    ):
        of_task, of_all = _events(one), _events(all_)
        assert next(of_task)["seq"] == next(of_all)["seq"] == 1
        waits = []
        for number in range(5):
            if number == 0:
                server.app.service.tasks.cancel(server.caller, task["id"])
                committed_at = time.monotonic()
                assert next(of_task)["kind"] == "cancel_requested"
            else:
                server.submit()
                committed_at = time.monotonic()
            next(of_all)
            waits.append(time.monotonic() - committed_at)
    assert sorted(waits)[2] < 1.0, f"{waits}; a busy machine may hold one or two up"


def test_a_stream_goes_on_where_it_broke(server: Server) -> None:
    """While others write, a reader that connects again after every event sees each once."""
    tasks = [server.submit()["id"] for _ in range(3)]
    seen, last = [], ""
    for _ in range(6):
        with closing(server.follow("/api/events", **({"Last-Event-ID": last} if last else {}))) as answer:
            event = next(_events(answer))
        seen.append(event["subject_id"])
        last = event["cursor"]
        if len(tasks) < 6:
            tasks.append(server.submit()["id"])
    assert seen == tasks


def test_the_place_of_a_client_that_went_is_free_and_pages_are_served_all_the_time(server: Server) -> None:
    """The process' limit refuses one more with 503; a connection that is closed makes room within a moment."""
    with ExitStack() as opened:
        answers = [opened.enter_context(closing(server.follow("/api/events"))) for _ in range(STREAMS_MAX)]
        assert [answer.status_code for answer in answers] == [200] * STREAMS_MAX
        refused = server.follow("/api/events")
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert requests.get(f"{server.url}/api/events", headers={**server.headers, "Accept": "*/*"}, timeout=5).ok
        answers[0].close()
        again = wait_until(lambda: _if_ok(server.follow("/api/events")), "there is room again", timeout_s=5)
        again.close()


def _if_ok(answer: requests.Response) -> requests.Response | None:
    return answer if answer.ok else None


def test_a_client_that_does_not_read_holds_nothing_for_ever(server: Server) -> None:
    """Its connection is cut, so its thread and its place are free; the process holds one page for it and no more."""
    task = server.submit()
    _write_output(server, task, megabytes=40)
    worker = psutil.Process(server.process.pid).children()[0]
    before = worker.memory_info().rss
    deaf = []
    for _ in range(STREAMS_MAX):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        asked = "".join(f"{name}: {value}\r\n" for name, value in {**server.headers, "Host": "x"}.items())
        client.sendall(f"GET /api/tasks/{task['id']}/logs HTTP/1.1\r\n{asked}\r\n".encode())
        deaf.append(client)
    assert [client.recv(12) for client in deaf] == [b"HTTP/1.1 200"] * STREAMS_MAX, "all places are taken"
    wait_until(lambda: _if_ok(server.follow("/api/events")), "and free again", timeout_s=15)
    assert worker.memory_info().rss - before < 60 * 1024 * 1024
    ours = {client.getsockname()[1] for client in deaf}
    wait_until(
        lambda: not ours & {one.raddr.port for one in worker.net_connections("tcp") if one.raddr},
        "no connection of theirs is open",
    )
    for client in deaf:
        client.close()
    assert "Traceback" not in server.log.read_text()


def _write_output(server: Server, task: dict[str, Any], *, megabytes: int) -> None:
    """Give the task a session that wrote so much."""
    app = server.app
    vault = Vault(app.settings.secret_key)
    world = World(cast(Any, None), app.service, app.database, RecordingPublisher(), ManualClock(), "", "", vault)
    session_id = world.place(task).session_id
    piece = b"x" * 2**16

    def write(tx: Any) -> None:
        rows = [
            {"session_id": session_id, "number": number, "data": piece, "at": 1.0}
            for number in range(1, 16 * megabytes + 1)
        ]
        tx.execute(insert(LogChunk), rows)

    app.database.write(write)


def test_a_stop_does_not_wait_for_streams(server: Server) -> None:
    """Each ends as an answer ends, not as a broken connection, and the server is gone within a moment."""
    answers = [server.follow("/api/events") for _ in range(STREAMS_MAX)]
    assert all(answer.ok for answer in answers)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for answer in answers:
        assert list(_events(answer)) == []
    # It waits so long for requests.
    grace_s = float(runpy.run_module("taskflow.stack.gunicorn_conf")["graceful_timeout"])
    wait_until(lambda: "Worker exiting" in server.log.read_text(), "nothing holds it", timeout_s=grace_s - 1)
    assert time.monotonic() - began < grace_s
    server.process.wait(30)
    assert "Traceback" not in server.log.read_text()
