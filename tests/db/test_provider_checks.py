"""Checks of providers in SQL: the migration there and back, and its columns on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from taskflow.clock import ManualClock
from taskflow.db.migrate import config, upgrade
from taskflow.db.providers import accounts, ask_check, begin_check, end_check, is_check_asked
from taskflow.db.session import Database, make_engine

_ROW = "INSERT INTO provider_accounts (name, offers_rest, changed_at) VALUES ('cloud', '{}', 1)"


@pytest.mark.integration
def test_accounts_that_are_there_go_on_and_are_asked_once(empty_database_url: str) -> None:
    """Nobody checked them yet. Of two who take a check one has it; what it found stays until the next one ended."""
    engine = make_engine(empty_database_url)
    try:
        with engine.execution_options(taskflow_writes=True).begin() as connection:
            command.upgrade(config(connection), "0010")
            connection.execute(text(_ROW))
        upgrade(engine)
        database = Database(engine, ManualClock())
        with database.read() as tx:
            assert accounts(tx)["cloud"].checked_at is None and not is_check_asked(tx, "cloud")

        def ask(at: float) -> None:
            database.write(lambda tx: ask_check(tx, "cloud", now=at, every_s=10.0))

        def begin(at: float) -> bool:
            return database.write(lambda tx: begin_check(tx, "cloud", now=at, longest_s=60.0))

        assert not begin(1.0)
        ask(2.0)
        assert (begin(3.0), begin(62.0), begin(63.0)) == (True, False, True)
        database.write(lambda tx: end_check(tx, "cloud", {"ok": True, "says": "yes", "code": None}, 64.0))
        assert not begin(200.0)
        ask(70.0)
        with database.read() as tx:
            row = accounts(tx)["cloud"]
            assert is_check_asked(tx, "cloud") and (row.check_asked_at, row.checked["says"]) == (70.0, "yes")
            assert tx.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 2
    finally:
        engine.dispose()


def test_going_back_leaves_accounts_as_they_were(tmp_path: Path) -> None:
    """The columns are gone, the row is not."""
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    try:
        upgrade(engine)
        with engine.execution_options(taskflow_writes=True).begin() as connection:
            connection.execute(text(_ROW))
            command.downgrade(config(connection), "0010")
            assert set(connection.execute(text("SELECT * FROM provider_accounts")).mappings().one()) == {
                "name", "rests_until", "rests_because", "blocked", "offers_rest", "changed_at",
            }  # fmt: skip
            assert connection.execute(text("SELECT name FROM provider_accounts")).scalar_one() == "cloud"
    finally:
        engine.dispose()
