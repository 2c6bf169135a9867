"""A database that is full or read-only, and a Redis at its limit: said clearly, and over as soon as the cause is."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg
import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import InternalError
from structlog.testing import capture_logs

from taskflow.bootstrap import App, bootstrap
from taskflow.db.migrate import upgrade
from taskflow.db.models import Event, IdempotencyKey, Run, Task
from taskflow.db.session import Database
from taskflow.errors import InfrastructureError
from taskflow.settings import Settings
from tests.conftest import ValkeyDatabase
from tests.support.postgres import PostgresServer
from tests.support.virtual import Broker
from tests.support.waiting import wait_until
from tests.web.world import SPEC
from web import create_app

pytestmark = [pytest.mark.integration]
LIFTED = 1_073_741_823


@dataclasses.dataclass
class Plane:
    """A whole control plane in this process, on real servers; ``broker`` keeps what was rung."""

    app: App
    broker: Broker
    client: FlaskClient
    headers: dict[str, str]

    def submit(self, key: str = "") -> Any:
        """One submission over the real app."""
        more = {"Idempotency-Key": key} if key else {}
        return self.client.post("/api/tasks", json=SPEC, headers={**self.headers, **more})

    def count(self, table: Any) -> int:
        """Rows of a table."""
        with self.app.database.read() as tx:
            return tx.execute(select(func.count()).select_from(table)).scalar_one()

    def checks(self) -> tuple[int, dict[str, str]]:
        """What ``/readyz`` says of the stores, looked at anew; a worker and beat are there."""
        self.app.service.health._writes_at = float("-inf")
        with contextlib.suppress(redis.RedisError, InfrastructureError):
            self.app.service.workers.lives()
            self.app.sweep("outbox")
        answer = self.client.get("/readyz")
        found = answer.get_json()
        return answer.status_code, found["checks"] if answer.status_code == 200 else found["error"]["detail"]["checks"]

    def doctor(self, check: str) -> str:
        """What the doctor says of one check."""
        self.app.service.health._writes_at = float("-inf")
        return next(one["says"] for one in self.app.service.health.doctor() if one["check"] == check)


@pytest.fixture
def make_plane(valkey: ValkeyDatabase, settings: Settings, empty_database_url: str) -> Iterator[Callable[[], Plane]]:
    """Makes the control plane on the migrated database of each backend."""
    made: list[App] = []

    def make() -> Plane:
        chosen = dataclasses.replace(settings, database_url=empty_database_url, redis_url=valkey.url)
        broker = Broker()
        app = bootstrap(chosen, publisher=broker)
        made.append(app)
        upgrade(app.database.engine)
        token = app.service.accounts.create_token(name="t")["token"]
        client = create_app(app.service, chosen).test_client()
        return Plane(app, broker, client, {"Authorization": f"Bearer {token}"})

    yield make
    for app in made:
        app.close()


def refused(answer: Any, code: str) -> None:
    """503 of this code, with what to do and when to ask again."""
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (503, code), error
    assert error["advice"] and error["detail"] == {"store": "database"}
    assert int(answer.headers["Retry-After"]) >= 1


@contextmanager
def sqlite_full(database: Database) -> Iterator[None]:
    """SQLite's own limit on its pages: each connection may grow the file no further."""

    def limit(connection: Any, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def on_checkout(connection: Any, *_: Any) -> None:
        limit(connection, 1)  # as many as there are

    event.listen(database.engine, "checkout", on_checkout)
    try:
        yield
    finally:
        event.remove(database.engine, "checkout", on_checkout)
        event.listen(database.engine, "checkout", lambda connection, *_: limit(connection, LIFTED))


@contextmanager
def sqlite_read_only(database: Database) -> Iterator[None]:
    """Connections that may only ask."""

    def on_checkout(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    event.listen(database.engine, "checkout", on_checkout)
    try:
        yield
    finally:
        event.remove(database.engine, "checkout", on_checkout)
        event.listen(database.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA query_only = OFF"))


@contextmanager
def postgres_read_only(database: Database) -> Iterator[None]:
    """As an administrator does it; it counts for connections made from then on, so the others are ended."""
    url = database.engine.url
    admin = psycopg.connect(host=url.host, port=url.port, user=url.username, dbname="postgres", autocommit=True)

    def switch(statement: str) -> None:
        admin.execute(statement)
        # Waited for: a connection that ends a moment later would fail what is asked in that moment.
        ended = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        admin.execute(ended, (str(url.database),))

    switch(f'ALTER DATABASE "{url.database}" SET default_transaction_read_only = on')
    try:
        yield
    finally:
        switch(f'ALTER DATABASE "{url.database}" RESET default_transaction_read_only')
        admin.close()


READ_ONLY = {"sqlite": sqlite_read_only, "postgresql": postgres_read_only}


def test_a_read_only_database(make_plane: Callable[[], Plane]) -> None:
    """Submissions are refused whole, turns wait, readiness and doctor name it; all goes on when it is over."""
    plane = make_plane()
    under_way = plane.submit().get_json()
    with READ_ONLY[plane.app.database.engine.dialect.name](plane.app.database):
        with capture_logs() as logs:
            refused(plane.submit("again"), "database_read_only")
        assert any(line.get("code") == "database_read_only" for line in logs)
        assert plane.checks()[0] == 503
        assert plane.checks()[1]["database_writes"] == "failed"
        assert "read" in plane.doctor("database_writes") and "writable again" in plane.doctor("database_writes")
        verdicts = {plane.app.runner.turn(under_way["run_id"]) for _ in range(3)}
        assert verdicts <= {"store_unusable", "early"} and "store_unusable" in verdicts
        assert plane.client.get(f"/api/tasks/{under_way['id']}", headers=plane.headers).status_code == 200
    assert plane.submit("again").status_code == 202
    assert plane.checks()[0] == 200
    assert (plane.count(Task), plane.count(Run), plane.count(IdempotencyKey)) == (2, 2, 1)
    wait_until(lambda: plane.app.runner.turn(under_way["run_id"]) != "early", "its alarm is due again")
    assert (
        plane.client.get(f"/api/tasks/{under_way['id']}", headers=plane.headers).get_json()["step"] != "node_selection"
    )


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_full_sqlite(make_plane: Callable[[], Plane]) -> None:
    """Each submission is there or not, and none is half there; the first one that finds room again is taken."""
    plane = make_plane()
    answers = []
    with sqlite_full(plane.app.database):
        for number in range(200):
            answers.append(plane.submit(f"key-{number}"))
            if answers[-1].status_code != 202:
                break
        refused(answers[-1], "database_full")
        assert plane.checks() == (503, plane.checks()[1]) and plane.checks()[1]["database_writes"] == "failed"
        assert "full" in plane.doctor("database_writes") and "make room" in plane.doctor("database_writes")
    taken = len(answers) - 1
    assert (plane.count(Task), plane.count(Run), plane.count(IdempotencyKey), plane.count(Event)) == (taken,) * 4
    assert plane.submit(f"key-{taken}").status_code == 202
    assert plane.checks()[0] == 200


@contextmanager
def postgres_full(server: PostgresServer, size: int) -> Iterator[None]:
    """The server's processes may grow no file beyond ``size``: PostgreSQL takes that as it takes a full disk."""
    assert server.pid is not None

    # In the name of the server's account, which the server lets nobody else speak for, root included in a container.
    options = server._account.popen_options()

    def limit(soft: str) -> None:
        leader = psutil.Process(server.pid)
        for process in [leader, *leader.children()]:
            argv = ["prlimit", "--pid", str(process.pid), f"--fsize={soft}:"]
            subprocess.run(argv, check=process.is_running(), cwd="/", **options)

    limit(str(size))
    try:
        yield
    finally:
        limit("unlimited")


#: Grow the history and the outbox beyond the limit that is set then. Nothing is reused: no row is deleted.
GROW = (
    "INSERT INTO events (owner_id, subject_kind, subject_id, seq, kind, actor, data, at)"
    " SELECT :owner, 'filler', 'filler', n, 'filler', 'filler', json_build_object('a', repeat(md5(n::text), 55)), 0"
    " FROM generate_series(1, 8300) n",
    "INSERT INTO outbox (kind, payload, created_at, next_at, attempts, done_at)"
    " SELECT 'filler', json_build_object('a', string_agg(md5(m::text), '')), 0, 0, 0, 0"
    " FROM generate_series(1, 540000) m GROUP BY m % 540",
)


#: Takes what is left in the pages that there are, in a transaction that then fails.
FILL = (
    "INSERT INTO events (owner_id, subject_kind, subject_id, seq, kind, actor, data, at)"
    " SELECT :owner, 'filler', 'filler', n, 'filler', 'filler', '{}', 0 FROM generate_series(10000, 30000) n"
)


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_full_postgres(make_plane: Callable[[], Plane], postgres_server: PostgresServer) -> None:
    """Tables that can't be extended: refused whole, named, and over when there is room."""
    plane = make_plane()
    size = 16 * 1024 * 1024  # of one log segment: those stay writable, because without them the server itself ends
    with plane.app.database.engine.begin() as tx:
        owner = tx.execute(text("SELECT id FROM owners")).scalar_one()
        for statement in GROW:
            tx.execute(text(statement), {"owner": owner} if ":owner" in statement else {})
    with plane.app.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))  # what is there is written: only what is new needs room
    with postgres_full(postgres_server, size):
        with pytest.raises(InternalError, match="could not extend"), plane.app.database.engine.begin() as tx:
            tx.execute(text(FILL), {"owner": owner})
        answers = []
        for number in range(100):
            answers.append(plane.submit(f"key-{number}"))
            if answers[-1].status_code != 202:
                break
        refused(answers[-1], "database_full")
        assert plane.checks()[0] == 503 and plane.checks()[1]["database_writes"] == "failed"
        assert "make room" in plane.doctor("database_writes")
        taken = len(answers) - 1
        assert (plane.count(Task), plane.count(Run), plane.count(IdempotencyKey)) == (taken,) * 3
    assert plane.submit(f"key-{taken}").status_code == 202
    assert plane.checks()[0] == 200
