"""Can the database be written? Only a write tells: a full or read-only one goes on answering questions."""

from __future__ import annotations

import base64
import os

from sqlalchemy import Connection, delete, insert

from taskflow.db.models import OutboxRow
from taskflow.db.session import Database

#: More than the free space of pages in use, so that the database must ask for room. Random: it can't be compressed.
_BYTES = 24_000


def check_writable(database: Database) -> None:
    """Write a row of some pages and delete it in the same, committed transaction: nobody ever sees it.

    Raises ``InfrastructureError`` whose code names the cause.
    """
    filler = base64.b64encode(os.urandom(_BYTES)).decode()

    def work(tx: Connection) -> None:
        row = tx.execute(
            insert(OutboxRow)
            .values(kind="probe", payload={"filler": filler}, created_at=0.0, next_at=0.0, attempts=0, done_at=0.0)
            .returning(OutboxRow.id)
        ).one()
        tx.execute(delete(OutboxRow).where(OutboxRow.id == row.id))

    database.write(work)
