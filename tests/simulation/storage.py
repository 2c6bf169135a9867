"""SQLite in memory for all processes of a run: one connection, emptied between runs."""

from __future__ import annotations

import sqlite3

from taskflow.db.models import Base
from taskflow.db.session import make_engine
from tests.simulation.ports import Disturbance


class Storage:
    """The engine is made once: what SQLAlchemy compiled for one run serves the next."""

    def __init__(self) -> None:
        self.engine = make_engine("sqlite://")
        self.disturbance = Disturbance(self.engine)
        with self.engine.connect() as connection:
            found = connection.connection.driver_connection
        assert isinstance(found, sqlite3.Connection)
        self.connection = found
        Base.metadata.create_all(self.engine)
        self._empty = sqlite3.connect(":memory:")
        self.connection.backup(self._empty)

    def reset(self) -> None:
        """As new."""
        if self.connection.in_transaction:
            self.connection.rollback()
        self.disturbance.sqlstate = ""
        self._empty.backup(self.connection)

    def open_outbox(self, kind: str = "%") -> int:
        """Promises (of this kind) that nobody kept yet."""
        question = "SELECT count(*) FROM outbox WHERE done_at IS NULL AND kind LIKE ?"
        return int(self.connection.execute(question, (kind,)).fetchone()[0])
