"""Two releases on one database: which may work on the schema of which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, Inspector, MetaData, insert, inspect, text

from taskflow.db import migrate
from taskflow.db.session import make_engine
from taskflow.errors import InfrastructureError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    made = make_engine(f"sqlite:///{tmp_path}/releases.db")
    yield made
    made.dispose()


def made_newer(engine: Engine, works_from: str) -> None:
    """As a later release leaves it: at a migration nobody here knows."""
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(
            text("UPDATE installation SET value = :value WHERE key = 'schema_works_from'"), {"value": works_from}
        )


def test_this_release_works_on_a_newer_schema_that_only_adds(engine: Engine) -> None:
    """Beside a newer release while that is deployed, and after a rollback; an upgrade then changes nothing."""
    made_newer(engine, migrate.head())
    migrate.check_current(engine)
    assert migrate.upgrade(engine) == "9999"


@pytest.mark.parametrize("works_from", ["9000", ""])
def test_a_newer_schema_that_is_not_for_this_release_is_refused(engine: Engine, works_from: str) -> None:
    """An upgrade would not help, so nobody is told to run one; a schema that does not say whom it is for is for nobody."""
    made_newer(engine, works_from or "0001")
    if not works_from:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM installation"))
    for attempt in (migrate.check_current, migrate.upgrade):
        with pytest.raises(InfrastructureError, match="9999") as caught:
            attempt(engine)
        assert "newer release" in str(caught.value.advice) and "db upgrade" not in str(caught.value.advice)


def test_an_older_schema_is_refused_until_it_is_upgraded(engine: Engine) -> None:
    """A new release never works on the schema of the one before."""
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), "0005")
    with pytest.raises(InfrastructureError, match="0005") as caught:
        migrate.check_current(engine)
    assert caught.value.advice == "run: taskflow db upgrade"


@pytest.mark.integration
def test_promises_that_were_open_are_given_their_owner(empty_database_url: str) -> None:
    """Migration 0012: a task's by the task, those about limits by what they say, the installation's none."""
    engine = make_engine(empty_database_url)
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), "0010")
        tables = MetaData()
        tables.reflect(connection, only=["owners", "tasks", "outbox"])
        connection.execute(insert(tables.tables["owners"]), {"id": "o1", "name": "o1", "created_at": 1.0})
        task = {
            "id": "t1", "owner_id": "o1", "title": "t", "status": "ready", "priority": 0, "project": "", "labels": {},
            "repository": "/r", "command": ["true"], "env": {}, "push": True, "time_limit_s": 1.0, "run_number": 1,
            "created_at": 1.0, "updated_at": 1.0, "allow_node_fallback": False, "node_loss_reruns_max": 0,
            "node_loss_reruns": 0,
        }  # fmt: skip
        connection.execute(insert(tables.tables["tasks"]), task)
        row = {"created_at": 1.0, "next_at": 1.0, "attempts": 3}
        for kind, payload in (
            ("rerun_task", {"task_id": "t1"}), ("rerun_task", {"task_id": "gone"}),
            ("limits_changed", {"owner_id": "o1"}), ("provider_changed", {"provider": "cloud"}),
        ):  # fmt: skip
            connection.execute(insert(tables.tables["outbox"]), {**row, "kind": kind, "payload": payload})
    migrate.upgrade(engine)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT owner_id, error, attempts FROM outbox ORDER BY id")).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [("o1", None, 3), (None, None, 3), ("o1", None, 3), (None, None, 3)]


def columns(inspector: Inspector) -> dict[tuple[str, str], Any]:
    """Every column by table and name."""
    return {(table, one["name"]): one for table in inspector.get_table_names() for one in inspector.get_columns(table)}


def checks(inspector: Inspector) -> set[tuple[str, str]]:
    """What rows have to fit, by table and name."""
    tables = inspector.get_table_names()
    return {(table, str(one["name"])) for table in tables for one in inspector.get_check_constraints(table)}


def test_what_came_after_the_oldest_release_that_may_work_here_only_adds(engine: Engine) -> None:
    """That release still finds all it reads, and the rows that it writes are complete."""
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), migrate.WORKS_FROM)
    before, checked = columns(inspect(engine)), checks(inspect(engine))
    migrate.upgrade(engine)
    after, tables = columns(inspect(engine)), {table for table, _ in before}
    said = "raise WORKS_FROM in taskflow/db/migrate.py, and say it in the CHANGELOG"
    assert set(before) - set(after) == set(), said
    assert [key for key, old in before.items() if old["nullable"] and not after[key]["nullable"]] == [], said
    assert [key for key in checks(inspect(engine)) - checked if key[0] in tables] == [], said
    needed = [
        key
        for key, one in after.items()
        if key not in before and key[0] in tables and not one["nullable"] and one["default"] is None
    ]
    assert needed == [], said
