"""Facts of an installation that must not change by a setting: its id, and the number of shards of the alarm index."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.db.models import ControlShard, Installation
from taskflow.db.session import Database

_SHARDS = "shards"
_ID = "id"


def agreed_shards(database: Database, wanted: int) -> int:
    """The number of shards of this installation; the first process of a new one writes what it wants."""
    return int(_agreed(database, _SHARDS, str(wanted)))


def installation_id(database: Database) -> str:
    """Tells this installation's servers at a provider from those of another: eight letters and digits, made once."""
    return _agreed(database, _ID, secrets.token_hex(4))


def _agreed(database: Database, key: str, wanted: str) -> str:
    with database.read() as tx:
        known: str | None = tx.execute(select(Installation.value).where(Installation.key == key)).scalar()
    if known is not None:
        return known

    def work(tx: Connection) -> str:
        found: str | None = tx.execute(select(Installation.value).where(Installation.key == key)).scalar()
        if found is None:
            tx.execute(insert(Installation).values(key=key, value=wanted))
            return wanted
        return found

    try:
        return database.write(work)
    except IntegrityError:
        return database.write(work)  # another process of a new installation wrote it first


def write_shards(database: Database, shards: int) -> None:
    """Change the number of shards. Nothing counts as reconciled afterwards, so the next worker rebuilds every run."""

    def work(tx: Connection) -> None:
        tx.execute(delete(ControlShard))
        changed = tx.execute(update(Installation).where(Installation.key == _SHARDS).values(value=str(shards)))
        if changed.rowcount == 0:
            tx.execute(insert(Installation).values(key=_SHARDS, value=str(shards)))

    database.write(work)
