"""Migrations: bring the schema up to date, and say whether it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, delete, insert, select

from taskflow.db.feed import settle_restored
from taskflow.db.models import Installation
from taskflow.errors import InfrastructureError

#: The oldest release, named by its last migration, that may work on this release's schema: beside it while it is
#: deployed, and after a rollback. The migrations since then only add. One that does more raises this to its own number,
#: and the CHANGELOG says that the release before it has to be stopped.
#: 0007: a user's token has a role. An older release can't make one, and would let a viewer do everything.
WORKS_FROM = "0007"
_WORKS_FROM_KEY = "schema_works_from"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for this package's migrations, on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> str:
    """Run every migration that is missing; the revision the schema is at now. Safe to repeat.

    A schema of a newer release is left as it is. Raises ``InfrastructureError`` when this release can't work on it.
    """
    with engine.execution_options(taskflow_writes=True).begin() as connection:
        found = _current(connection)
        if _is_newer(found):
            _check(connection)
            return found or ""
        command.upgrade(config(connection), "head")
        _write_works_from(connection)
        settle_restored(connection)
        return _current(connection) or ""


def check_current(engine: Engine) -> None:
    """Raise ``InfrastructureError`` unless this release can work on the schema: its own, or a newer one that only adds."""
    with engine.connect() as connection:
        _check(connection)


def _check(connection: Connection) -> None:
    found, expected = _current(connection), head()
    if found == expected:
        return
    newer = _is_newer(found)
    if newer and (_works_from(connection) or "~") <= expected:
        return
    raise InfrastructureError(
        f"the database schema is at {found or 'nothing'}, this release needs {expected}",
        code="schema",
        advice="it is of a newer release, which alone can work on it" if newer else "run: taskflow db upgrade",
    )


def _is_newer(revision: str | None) -> bool:
    """Whether a release after this one made it: this one does not know it."""
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    return revision is not None and revision not in known


def _works_from(connection: Connection) -> str | None:
    row = select(Installation.value).where(Installation.key == _WORKS_FROM_KEY)
    return connection.execute(row).scalar()


def _write_works_from(connection: Connection) -> None:
    connection.execute(delete(Installation).where(Installation.key == _WORKS_FROM_KEY))
    connection.execute(insert(Installation).values(key=_WORKS_FROM_KEY, value=WORKS_FROM))


@cache
def head() -> str:
    """The revision this release was written for. To find it reads every migration, and it is asked for all the time."""
    return ScriptDirectory.from_config(config()).get_current_head() or ""


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
