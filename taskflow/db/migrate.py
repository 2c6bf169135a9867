"""Migrations: bring the schema up to date, and say whether it is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from taskflow.db.feed import settle_restored
from taskflow.errors import InfrastructureError


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration for this package's migrations, on an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> str:
    """Run every migration that is missing; the revision the schema is at now. Safe to repeat."""
    with engine.execution_options(taskflow_writes=True).begin() as connection:
        command.upgrade(config(connection), "head")
        settle_restored(connection)
        return _current(connection) or ""


def check_current(engine: Engine) -> None:
    """Raise ``InfrastructureError`` unless the schema is the one this release was written for."""
    with engine.connect() as connection:
        found = _current(connection)
    expected = head()
    if found != expected:
        raise InfrastructureError(
            f"the database schema is at {found or 'nothing'}, this release needs {expected}",
            code="schema",
            advice="run: taskflow db upgrade",
        )


@cache
def head() -> str:
    """The revision this release was written for. To find it reads every migration, and it is asked for all the time."""
    return ScriptDirectory.from_config(config()).get_current_head() or ""


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
