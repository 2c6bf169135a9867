"""The real worker, made to die at a named point: ``celery -A tests.crashpoints.worker worker``.

Every call of the process to a store, the broker, an agent or a provider is a point ``<before|after>:<call>@<where>``,
where ``where`` is the step, ``turn`` (before the step is known), ``pump`` or ``sweep:<name>``. Points are noted in
``$CRASHPOINTS_DIR/seen``, which survives the kill. When the first line of ``$CRASHPOINTS_DIR/armed`` names the point
reached, the process notes that it did so and ends itself with SIGKILL; the next line is for its successor.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event

import taskflow.celery as real
from taskflow.bootstrap import App
from taskflow.nodes.agent_client import AgentClient

app = real.app
DIRECTORY = Path(os.environ["CRASHPOINTS_DIR"])
ARMED, KILLED, SEEN = DIRECTORY / "armed", DIRECTORY / "killed", DIRECTORY / "seen"
_here = threading.local()


def _append(path: Path, line: str, *, sync: bool = False) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode())
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)


def reached(moment: str, call: str) -> None:
    """The process is at a point. Threads of no place (renewal of leases) pass: when they run is chance."""
    where = getattr(_here, "where", None)
    if where is None:
        return
    point = f"{moment}:{call}@{where}"
    _append(SEEN, point)
    try:
        armed = ARMED.read_text().strip()
    except FileNotFoundError:
        return
    first, _, rest = armed.partition("\n")
    if first == point:
        # The order matters: noted, and armed for the next one, before the end, so that it dies once at each.
        _append(KILLED, point, sync=True)
        aside = ARMED.with_suffix(".rest")
        aside.write_text(rest)
        aside.rename(ARMED)
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _at(where: str) -> Iterator[None]:
    before = getattr(_here, "where", None)
    _here.where = where
    try:
        yield
    finally:
        _here.where = before


def _around(owner: Any, method: str, name: Callable[..., str]) -> None:
    """Make every call of ``owner.method`` two points."""
    function = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = name(*args, **kwargs)
        reached("before", call)
        answer = function(*args, **kwargs)
        reached("after", call)
        return answer

    setattr(owner, method, wrapped)


def _placed(owner: Any, method: str, where: Callable[..., str]) -> None:
    """Say where we are while ``owner.method`` runs."""
    function = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _at(where(*args, **kwargs)):
            return function(*args, **kwargs)

    setattr(owner, method, wrapped)


def _watch_sql(wired: App) -> None:
    dialect, write, write_one = wired.database.engine.dialect, wired.database.write, wired.database.write_one
    commit = dialect.do_commit

    def writing(work: Any) -> Any:
        _here.writes = True
        try:
            return write(work)
        finally:
            _here.writes = False

    def writing_one(statement: Any, parameters: Any) -> Any:
        if not wired.database.counts_round_trips:
            return write_one(statement, parameters)  # an ordinary transaction
        # The statement is sent, begins, and is committed in one go: nothing is reached in between.
        reached("after", "sql-begin")
        reached("before", "sql-commit")
        row = write_one(statement, parameters)
        reached("after", "sql-commit")
        return row

    def do_commit(dbapi_connection: Any) -> None:
        kind = "sql-commit" if getattr(_here, "writes", False) else "sql-read"
        reached("before", kind)
        commit(dbapi_connection)
        reached("after", kind)

    def on_begin(_connection: Any) -> None:
        if getattr(_here, "writes", False):
            reached("after", "sql-begin")

    wired.database.write = writing  # type: ignore[method-assign]
    wired.database.write_one = writing_one  # type: ignore[method-assign]
    dialect.do_commit = do_commit  # type: ignore[method-assign]
    event.listen(wired.database._writing, "begin", on_begin)


def _watch_steps(wired: App) -> None:
    decide = wired.runner._decide

    def deciding(turn: Any) -> Any:
        # Until the next decision, or the end of the turn, everything belongs to this step.
        _here.where = f"{turn.row.pipeline}.{turn.row.step}"
        return decide(turn)

    wired.runner._decide = deciding  # type: ignore[method-assign]
    _placed(wired.runner, "turn", lambda *_: "turn")
    _placed(wired.pump, "tick", lambda: "pump")
    _placed(wired, "sweep", lambda name: f"sweep:{name}")


def watch(wired: App) -> App:
    """Make every call of ``wired`` to the outside a point."""
    _watch_steps(wired)
    _watch_sql(wired)
    _around(wired.control, "_call", lambda name, *_: f"lua:{name}")
    for script in ("renew", "forget", "ensure", "pump"):
        _around(wired.control, script, lambda *_, script=script: f"lua:{script}")
    _around(wired.publisher, "publish", lambda *_: "publish")
    for provider in wired.tools.providers.values():
        for method in ("find_by_label", "create", "get", "destroy"):
            _around(provider, method, lambda *_, method=method, **__: f"provider:{method}")
    return wired


def _watch_agents() -> None:
    call = AgentClient._call

    def wrapped(self: AgentClient, method: str, path: str, payload: Any) -> Any:
        name = f"agent:{method} {'session' if '/sessions/' in path else 'workspace'}"
        reached("before", name)
        answer = call(self, method, path, payload)
        reached("after", name)
        return answer

    AgentClient._call = wrapped  # type: ignore[method-assign]


_watch_agents()
_get = real.process.get
_watched: list[App] = []
_mutex = threading.Lock()


def _watched_app() -> App:
    with _mutex:
        wired = _get()
        if not any(wired is known for known in _watched):
            _watched.append(watch(wired))
        return wired


real.process.get = _watched_app  # type: ignore[method-assign]
