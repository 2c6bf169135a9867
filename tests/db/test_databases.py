"""Migrations, SQLite's settings, and the transactions of ``Database``."""

from __future__ import annotations

import sqlite3
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, insert, select, text
from sqlalchemy.exc import StatementError

from taskflow.clock import ManualClock
from taskflow.db import session
from taskflow.db.migrate import check_current, head, upgrade
from taskflow.db.models import Base, Owner
from taskflow.db.session import Database, make_engine
from taskflow.errors import InfrastructureError, UsageError
from tests.support.postgres import PostgresServer


@pytest.mark.integration
def test_the_migrations_make_exactly_what_the_models_say(empty_database_url: str) -> None:
    """Upgrading an empty database leaves no difference to the models; upgrading again changes nothing."""
    engine = make_engine(empty_database_url)
    try:
        with pytest.raises(InfrastructureError) as caught:
            check_current(engine)
        assert caught.value.advice == "run: taskflow db upgrade" and head() in caught.value.message
        assert upgrade(engine) == head() != ""
        assert upgrade(engine) == head()
        check_current(engine)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
    finally:
        engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Any:
    """A database with one table of owners, on SQLite."""
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    Base.metadata.create_all(engine)
    yield Database(engine, ManualClock())
    engine.dispose()


@pytest.mark.parametrize(
    "url", ["s3cret", "postgresql://u:s3cret@h:54x2/db", "postgresql://u:pw@h:s3cret/db", "mysql://u:s3cret@h/db"]
)
def test_what_is_no_url_of_a_database_is_refused_with_the_variable_and_without_the_url(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(UsageError) as caught:
        make_engine(url)
    assert set(caught.value.fields) == {"TASKFLOW_DATABASE_URL"}
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_sqlite_is_durable_and_strict(sqlite: Database) -> None:
    """WAL, every commit synced, foreign keys enforced."""
    with sqlite.read() as tx:
        found = {
            name: tx.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def _owner(tx: Any, name: str) -> None:
    tx.execute(insert(Owner).values(id=name, name=name, created_at=0.0))


def test_a_write_takes_the_write_lock_at_its_beginning(sqlite: Database) -> None:
    """IMMEDIATE: while the work runs, and before it wrote anything, no other connection can begin to write."""
    seen: list[str] = []

    def work(tx: Any) -> None:
        other = sqlite3.connect(sqlite.engine.url.database or "", timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            seen.append(str(error))
        finally:
            other.close()

    sqlite.write(work)
    assert seen == ["database is locked"]


def test_a_busy_database_is_tried_again_whole(sqlite: Database) -> None:
    """The work is run once the lock is free; a reader is not kept waiting by it."""
    event.listen(sqlite.engine, "checkout", lambda connection, *rest: connection.execute("PRAGMA busy_timeout=1"))
    other = sqlite3.connect(sqlite.engine.url.database or "", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waits: list[float] = []

    def release(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.execute("COMMIT")

    sqlite._clock.sleep = release  # type: ignore[method-assign]
    sqlite.write(lambda tx: _owner(tx, "a"))
    other.close()
    with sqlite.read() as tx:
        assert tx.execute(select(Owner.id)).scalars().all() == ["a"]
    assert len(waits) == 3


def test_a_database_that_stays_busy_is_an_infrastructure_error(sqlite: Database) -> None:
    """After bounded tries the caller is told, with a typed error."""
    event.listen(sqlite.engine, "checkout", lambda connection, *rest: connection.execute("PRAGMA busy_timeout=1"))
    other = sqlite3.connect(sqlite.engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InfrastructureError):
        sqlite.write(lambda tx: _owner(tx, "a"))
    other.close()


def test_writers_of_many_threads_all_get_through(sqlite: Database) -> None:
    """Read, then write, in one transaction: none fails at its end because somebody else wrote."""
    errors: list[Exception] = []

    def work(number: int) -> None:
        def one(tx: Any) -> None:
            tx.execute(select(Owner.id)).all()
            _owner(tx, f"o{number}")

        try:
            sqlite.write(one)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with sqlite.read() as tx:
        assert len(tx.execute(select(Owner.id)).all()) == 12
    assert errors == []


def test_a_value_that_sql_cannot_hold_is_the_callers_mistake(sqlite: Database) -> None:
    """It is not reported as a database that is away, which a caller would wait for."""
    with pytest.raises(StatementError):
        sqlite.write(lambda tx: tx.execute(insert(Owner).values(id={1}, name=object(), created_at="x")))


@pytest.mark.integration
@pytest.mark.parametrize("asked_after_s", [0.0, float("inf")], ids=["asked", "looked at"])
def test_a_pooled_connection_that_the_server_ended_is_replaced_unnoticed(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, asked_after_s: float
) -> None:
    """One that was idle is asked first; one that was just used is looked at, for the server said good-bye."""
    monkeypatch.setattr(session, "_IDLE_S", asked_after_s)
    url = postgres_server.create_database(f"pool_{'asked' if asked_after_s == 0 else 'looked'}")
    database, admin = Database(make_engine(url), ManualClock()), Database(make_engine(url), ManualClock())

    def pid() -> int:
        with database.read() as tx:
            return int(tx.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = pid()
    with admin.read() as tx:
        tx.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    assert pid() != first
    database.dispose()
    admin.dispose()
