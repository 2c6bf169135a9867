"""Connections and transactions. Engines are made after fork, one per process, by the composition root.

SQLite: WAL, ``synchronous=FULL``, foreign keys on; every writing transaction begins ``IMMEDIATE``, so that it can't
find out at its end that somebody else wrote, and is retried whole while the database is busy. PostgreSQL: READ
COMMITTED with guarded updates; serialization failures and deadlocks are retried whole. There every round trip counts:
reads and transactions of one statement go without BEGIN and COMMIT.
"""

from __future__ import annotations

import random
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
    StatementError,
    TimeoutError,
)

from taskflow.clock import Clock, SystemClock
from taskflow.errors import InfrastructureError, unreadable_url
from taskflow.settings import ENV_PREFIX

T = TypeVar("T")

_VARIABLE = f"{ENV_PREFIX}DATABASE_URL"
_FORM = "postgresql://user[:password]@host[:port]/database or sqlite:////path"
_TRIES = 8
#: A function of SQL on SQLite: a text in small letters, those of every alphabet.
UNICODE_LOWER = "taskflow_lower"
#: A pooled connection that nobody used for so long is asked whether it still lives, in seconds. To ask each time costs
#: every transaction a round trip; until then it is enough to look whether the server said good-bye.
_IDLE_S = 1.0
#: SQLSTATEs after which the same transaction may succeed: serialization failure, deadlock.
_AGAIN = ("40001", "40P01")
#: What ails the database -> what to do. All of it passes without a restart of ours once the cause is gone.
_ADVICE = {
    "database_full": "make room for the database; what waits goes on by itself",
    "database_read_only": "make the database writable again; what waits goes on by itself",
    "database_files": "the database can't read or write its files: look at its disk; what waits goes on by itself",
    "database_busy": "ask again; if it lasts, something holds the database's locks or all of its connections",
}


def make_engine(url: str) -> Engine:
    """An engine for ``url``. PostgreSQL URLs without a driver get psycopg. Raises ``UsageError`` for any other database.

    Its errors don't show what was written: those texts get into logs, and the values are users' (env, output, titles).
    """
    parsed = _parsed(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": 10.0}, hide_parameters=True)
        _make_sqlite_strict(engine)
        return engine
    engine = create_engine(
        parsed, hide_parameters=True, isolation_level="AUTOCOMMIT", pool_size=5, max_overflow=15, pool_timeout=10
    )
    _begin_when_asked(engine)
    _ask_idle_connections(engine)
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # not chained: it may hold a part of the URL
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres", "sqlite"):
        raise unreadable_url(_VARIABLE, _FORM)
    return parsed


def _begin_when_asked(engine: Engine) -> None:
    """The driver never begins a transaction by itself: what is ``taskflow_alone`` needs none."""

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("taskflow_alone", False):
            connection.exec_driver_sql("BEGIN")


def _ask_idle_connections(engine: Engine) -> None:
    @event.listens_for(engine, "checkin")
    def on_checkin(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        idle_s = time.monotonic() - record.info.get("idle_since", float("inf"))
        if idle_s < _IDLE_S and not _has_something_to_read(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool throws it away and gives another


def _has_something_to_read(connection: Any) -> bool:
    """Whether the server sent something unasked: the end of the connection, or a notice."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _make_sqlite_strict(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: ``on_begin`` does, with the kind that fits.
        connection.isolation_level = None
        connection.create_function(UNICODE_LOWER, 1, str.lower, deterministic=True)
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("taskflow_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Reads and writes as short transactions. Errors of the database itself become ``InfrastructureError``."""

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self.engine = engine
        self._writing = engine.execution_options(taskflow_writes=True)
        #: Whether a statement can be a transaction of its own; None where a transaction has no round trips to save.
        self._alone = engine.execution_options(taskflow_alone=True) if is_postgresql(engine) else None
        self._clock = clock or SystemClock()

    @property
    def counts_round_trips(self) -> bool:
        """Whether one statement is cheaper than several: PostgreSQL is asked over a socket, SQLite is called."""
        return self._alone is not None

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction and commit it; whole again when the database was busy or says to retry.

        ``work`` touches SQL only: it may run more than once. What it raises rolls back and is passed on.
        """

        def once() -> T:
            with self._writing.begin() as connection:
                return work(connection)

        return self._again(once)

    def write_one(self, statement: Executable, parameters: Mapping[str, Any]) -> Row[Any] | None:
        """Run one statement as a transaction of its own, retried like ``write``; the first row that it returns."""
        alone = self._alone
        if alone is None:
            return self.write(lambda tx: tx.execute(statement, parameters).first())

        def once() -> Row[Any] | None:
            with alone.connect() as connection:
                return connection.execute(statement, parameters).first()

        return self._again(once)

    def _again(self, once: Callable[[], T]) -> T:
        for attempt in range(1, _TRIES + 1):
            try:
                return once()
            except DBAPIError as error:
                if isinstance(error, (IntegrityError, DataError)):
                    raise
                if attempt == _TRIES or not _may_succeed_again(error):
                    raise database_failure(error) from error
            except StatementError:
                raise  # a value that no column can hold: the caller's mistake, which waiting does not mend
            except SQLAlchemyError as error:
                raise database_failure(error) from error
            self._clock.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
        raise AssertionError("unreachable")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction for reading; on PostgreSQL each of its statements sees what was committed before it."""
        try:
            with (self._alone or self.engine).begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise database_failure(error) from error

    def dispose(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def is_postgresql(engine: Engine) -> bool:
    """Whether each statement is a round trip, and a statement may change several tables."""
    return engine.dialect.name == "postgresql"


def database_failure(error: SQLAlchemyError) -> InfrastructureError:
    """What the driver said, as an error whose code names the cause: database, or one of ``_ADVICE``."""
    cause = getattr(error, "orig", None)
    code = _cause(cause, error)
    return InfrastructureError(
        f"the database failed: {cause or error!r}", code=code, advice=_ADVICE.get(code), detail={"store": "database"}
    )


def _cause(cause: BaseException | None, error: SQLAlchemyError) -> str:
    state = str(getattr(cause, "sqlstate", None) or "")
    name = str(getattr(cause, "sqlite_errorname", None) or "")
    # A quota or a limit of the server's process is "internal" to PostgreSQL, but it says what it is in words.
    quota = state == "XX000" and "could not extend file" in str(cause)
    if state == "53100" or name == "SQLITE_FULL" or quota:  # disk_full
        return "database_full"
    if state == "25006" or name.startswith("SQLITE_READONLY"):  # read_only_sql_transaction
        return "database_read_only"
    if state.startswith("58") or name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):  # system_error, io_error
        return "database_files"
    busy = state in (*_AGAIN, "53300", "55P03") or name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return "database_busy" if busy or isinstance(error, TimeoutError) else "database"


def _may_succeed_again(error: DBAPIError) -> bool:
    if getattr(error.orig, "sqlstate", None) in _AGAIN:
        return True
    # sqlite3 names its codes since Python 3.11; before that, "busy" and "locked" are all an OperationalError says.
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return str(name).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
    return isinstance(error, OperationalError) and "locked" in str(error.orig)
