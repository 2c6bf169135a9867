"""The events of all subjects of an owner in one order that a reader can follow, and whether there may be news.

A row's id is taken before its transaction commits, so by ids alone a reader passes one that commits late and never sees
it. On PostgreSQL the order is therefore (``xact``, ``id``), and only rows are read whose transaction is older than every
one that still runs: nothing can appear before them any more. One transaction that is left open, in any database of that
server, holds the feed up; the events of one subject, which go by ``seq``, are not held up. SQLite has one writer at a
time: the order of ids is the order of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Row, bindparam, case, func, literal_column, select, text, tuple_
from sqlalchemy.exc import SQLAlchemyError

from taskflow.db.models import Event
from taskflow.db.session import Database, database_failure, is_postgresql


class Position(NamedTuple):
    """A place in the feed: all before it and the row of it were seen."""

    xact: int
    id: int


BEGINNING = Position(0, 0)

_XMIN = literal_column("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", BigInteger())
_XMAX = literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", BigInteger())
_SNAPSHOT = text("SELECT pg_current_snapshot()::text")
_AFTER_XACT, _AFTER_ID = bindparam("xact", type_=BigInteger()), bindparam("id", type_=BigInteger())
_PAGE = (
    select(Event.__table__)
    .where(Event.owner_id == bindparam("of_owner"))
    .order_by(Event.xact, Event.id)
    .limit(bindparam("at_most"))
)
_PAGE_SQLITE = _PAGE.where(tuple_(Event.xact, Event.id) > tuple_(_AFTER_XACT, _AFTER_ID))
#: A place that no transaction has reached yet is of the time before the database was restored: by its id alone.
_PAGE_POSTGRESQL = _PAGE.where(
    tuple_(Event.xact, Event.id) > tuple_(case((_AFTER_XACT >= _XMAX, 0), else_=_AFTER_XACT), _AFTER_ID),
    Event.xact < _XMIN,
)
_RESTORED = text(
    "UPDATE events SET xact = 0 FROM owners WHERE events.owner_id = owners.id"
    " AND events.xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)


def feed_after(tx: Connection, owner_id: str, after: Position, limit: int) -> Sequence[Row[Any]]:
    """Events of all subjects of this owner after a place in the feed, in order; at most ``limit``."""
    page = _PAGE_POSTGRESQL if is_postgresql(tx.engine) else _PAGE_SQLITE
    return tx.execute(page, {"of_owner": owner_id, "at_most": limit, **after._asdict()}).all()


def feed_end(tx: Connection) -> Position:
    """The place after everything that can be read now."""
    if is_postgresql(tx.engine):
        return Position(int(tx.execute(select(_XMIN)).scalar_one()), 0)
    return Position(0, int(tx.execute(select(func.coalesce(func.max(Event.id), 0))).scalar_one()))


def settle_restored(tx: Connection) -> None:
    """After a restore into another server: events of transactions that this one has not reached come first, by id.

    Left as they are they would be hidden until it has, and what is written now would come before them.
    """
    if is_postgresql(tx.engine):
        tx.execute(_RESTORED)


class CommitWatch:
    """Tells cheaply, of no table, whether anything was committed since it was asked last. Of one thread.

    On PostgreSQL any transaction of the server counts, on SQLite any write to the file: who is woken reads and may find
    nothing. The first answer is True. Raises ``InfrastructureError`` when there is no database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # SQLite counts for each connection what the others wrote, so it has to be the same one each time.
        try:
            self._own = None if is_postgresql(database.engine) else database.engine.connect()
        except SQLAlchemyError as error:
            raise database_failure(error) from error
        self._look: Callable[[], Any] = self._snapshot if self._own is None else self._version
        self._seen: Any = None

    def changed(self) -> bool:
        """Whether there may be news. Raises ``InfrastructureError``."""
        try:
            seen, self._seen = self._seen, self._look()
        except SQLAlchemyError as error:
            raise database_failure(error) from error
        return bool(seen != self._seen)

    def close(self) -> None:
        """Let go of the connection."""
        if self._own is not None:
            self._own.close()

    def _snapshot(self) -> Any:
        with self._database.read() as tx:
            return tx.execute(_SNAPSHOT).scalar_one()

    def _version(self) -> Any:
        assert self._own is not None
        with self._own.begin():
            return self._own.exec_driver_sql("PRAGMA data_version").scalar_one()
