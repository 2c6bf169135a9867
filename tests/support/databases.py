"""Databases for the tests: each test gets its own, on SQLite and on PostgreSQL, copied from a template."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = [
    "database_url",
    "empty_database_url",
    "engine",
    "postgres_template",
    "sqlite_template",
]

BACKENDS = ("sqlite", "postgresql")
_numbers = itertools.count(1)


def _create_schema(url: str) -> None:
    """Make every table of the models in an empty database."""
    from taskflow.db.models import Base
    from taskflow.db.session import make_engine

    engine = make_engine(url)
    try:
        Base.metadata.create_all(engine)
    finally:
        engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema in it, to be copied."""
    path = tmp_path_factory.mktemp("sqlite-template") / "template.db"
    _create_schema(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with the schema in it, to be copied."""
    name = "taskflow_template"
    _create_schema(postgres_server.create_database(name))
    return name


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh database with the schema in it; the test runs once for each backend."""
    if request.param == "sqlite":
        path = tmp_path / "taskflow.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        template: str = request.getfixturevalue("postgres_template")
        yield from _postgres_database(request.getfixturevalue("postgres_server"), template)


@pytest.fixture(params=BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a database without any table, for tests of the migrations."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        yield from _postgres_database(request.getfixturevalue("postgres_server"), None)


def _postgres_database(server: PostgresServer, template: str | None) -> Iterator[str]:
    server.start()  # a test before this one may have stopped it
    name = f"test_{os.getpid()}_{next(_numbers)}"
    yield server.create_database(name, template=template)
    if server.running:
        server.drop_database(name)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on ``database_url``, made as the product makes it."""
    from taskflow.db.session import make_engine

    make: Callable[[str], Engine] = make_engine
    made = make(database_url)
    yield made
    made.dispose()
