"""What people look at, beside ten thousand tasks: how long the server takes for a page and for what the API answers."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlencode

from sqlalchemy import Connection, insert

from bench.measuring import Figures, lateness
from bench.measuring import measure as rounds_of
from bench.places import OURS, OurPlace, our_place
from bench.report import Measured
from bench.subjects import Web, versions_of
from bench.subjects.ours import Ours
from taskflow.db.models import Run, Task
from tests.support.servers import PostgresServer

TASKS = 10_000
EACH = 50
_WARM = 5
_STATUSES = ("completed", "failed", "cancelled", "queued", "in_progress")
#: Figure -> what is asked for; ``{task}`` is one in the middle.
PATHS = {
    "page_first": "/", "page_list": "/tasks", "page_filter": "/tasks?status=failed&text=title%2099",
    "page_task": "/tasks/{task}",
    "api_list": "/api/tasks", "api_filter": "/api/tasks?status=failed&text=title%2099", "api_task": "/api/tasks/{task}",
}  # fmt: skip


def measure(rounds: int, peers: Sequence[str]) -> Measured:
    """Milliseconds of a request by one client, and kilobytes of the largest answer. There is no peer."""
    found = Measured("pages", {"tasks": TASKS, "requests": EACH})
    rounds_of(found, rounds, {"taskflow": _on_postgresql, "taskflow_sqlite": _on_sqlite})
    found.versions = {name: versions_of(name) for name in found.rounds[0]}
    return found


def _on_postgresql() -> Figures:
    with PostgresServer(durable=True) as server:
        return _figures(server.create_database("bench"))


def _on_sqlite() -> Figures:
    return _figures("")


def _figures(database_url: str) -> Figures:
    with our_place(database_url) as here, here.place.worker("one", *OURS) as worker:
        _fill(here)
        with Ours(here, worker).web() as web, _signed_in(web) as ask:
            figures: dict[str, float | None] = {}
            largest = 0
            for name, path in PATHS.items():
                took = []
                for _ in range(_WARM + EACH):
                    began = time.perf_counter()
                    largest = max(largest, ask(path.format(task=_id(TASKS // 2))))
                    took.append(time.perf_counter() - began)
                figures |= lateness(name, took[_WARM:])
    return figures | {"largest_kb": round(largest / 1000, 1)}


def _id(number: int) -> str:
    return f"task-{number:026d}"


def _fill(here: OurPlace) -> None:
    """Tasks that were submitted over the last day, each with a run, a fifth of them of each status."""
    now = here.app.control.now()

    def work(tx: Connection) -> None:
        tasks, runs = [], []
        for number in range(TASKS):
            status, at = _STATUSES[number % len(_STATUSES)], now - number * 8.0
            ended = at + 5.0 if number % len(_STATUSES) < 3 else None
            error = {"code": "exit", "message": "the command exited with status 1"} if status == "failed" else None
            run_id = f"run-{number:026d}"
            tasks.append(
                {
                    "id": _id(number), "owner_id": here.owner_id, "title": f"title {number}", "status": status,
                    "priority": 0, "labels": {"team": "core"}, "repository": "/srv/repository", "command": ["true"],
                    "env": {}, "push": True, "time_limit_s": 60.0, "run_id": run_id, "run_number": 1, "created_at": at,
                    "updated_at": at, "completed_at": ended, "error": error,
                }
            )  # fmt: skip
            runs.append(
                {
                    "id": run_id, "owner_id": here.owner_id, "pipeline": "agent_task", "version": 1,
                    "subject_kind": "task", "subject_id": _id(number), "number": 1, "step": "running",
                    "step_entered_at": at, "results": {}, "created_at": at, "finished_at": at + 5.0,
                }
            )  # fmt: skip
        tx.execute(insert(Run), runs)
        tx.execute(insert(Task), tasks)

    here.app.database.write(work)


@contextlib.contextmanager
def _signed_in(web: Web) -> Iterator[Callable[[str], int]]:
    """Asks for a path as a browser that is signed in; answers with the bytes that came."""
    connection = http.client.HTTPConnection(web.host, web.port, timeout=30)

    def send(method: str, path: str, body: str | None, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        connection.request(method, path, body=body, headers=dict(headers))
        return connection.getresponse()

    token = web.headers["Authorization"].removeprefix("Bearer ")
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    answer = send("POST", "/login", urlencode({"token": token}), form)
    answer.read()
    cookie = {"Cookie": str(answer.getheader("Set-Cookie")).partition(";")[0], "Accept": "text/html, application/json"}

    def ask(path: str) -> int:
        answer = send("GET", path, None, cookie)
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status} {said[:300]!r}")
        return len(said)

    try:
        yield ask
    finally:
        connection.close()
