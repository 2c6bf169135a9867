"""Roles, browsers and the audit trail in SQL: the migration there and back, what the schema refuses, what is pruned."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, delete, event, insert, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from taskflow.clock import ManualClock
from taskflow.db.account_models import AuditRow, BrowserSession, SignInCode
from taskflow.db.migrate import config, upgrade
from taskflow.db.models import Owner, Token
from taskflow.db.session import Database, make_engine
from taskflow.errors import InfrastructureError, Unauthorized, UsageError
from taskflow.service.accounts import Accounts
from taskflow.service.browsers import Browsers, SignedIn
from taskflow.service.tokens import Tokens
from taskflow.settings import Settings
from taskflow.sweeps.prune import prune_all

S = Settings()
NOW = 1_700_000_000.0


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine on a file that is not there yet."""
    engine = make_engine(f"sqlite:///{tmp_path / 'a.db'}")
    yield engine
    engine.dispose()


def _migrate(engine: Engine, revision: str, *, up: bool) -> None:
    with engine.execution_options(taskflow_writes=True).begin() as connection:
        (command.upgrade if up else command.downgrade)(config(connection), revision)


_BEFORE = """
INSERT INTO owners (id, name, created_at) VALUES ('o', 'ada', 1);
INSERT INTO tokens (id, owner_id, scope, subject_id, name, token_hash, created_at)
  VALUES ('t-1', 'o', 'api', NULL, 'cli', 'h-1', 1), ('t-2', 'o', 'node', 'n', 'n', 'h-2', 1);
"""


def test_tokens_that_are_there_go_on_and_come_back(sqlite_engine: Engine) -> None:
    """Users' tokens become admins', those of nodes have no role; going back leaves the rows and checks as they were."""
    _migrate(sqlite_engine, "0006", up=True)
    _execute(sqlite_engine, _BEFORE)
    with sqlite_engine.begin() as connection:
        tokens = text("SELECT * FROM tokens ORDER BY id")
        before = [dict(row._mapping) for row in connection.execute(tokens)]
        said = text("SELECT sql FROM sqlite_master WHERE name = 'tokens'")
        checks = connection.execute(said).scalar_one()
    upgrade(sqlite_engine)
    with sqlite_engine.begin() as connection:
        found = connection.execute(text("SELECT id, role, last_used_at FROM tokens ORDER BY id")).all()
        assert [tuple(row) for row in found] == [("t-1", "admin", None), ("t-2", None, None)]
        connection.execute(
            text(
                "INSERT INTO browser_sessions (id, token_id, secret_hash, csrf_secret, user_agent, created_at,"
                " last_seen_at, expires_at) VALUES ('b', 't-1', 's', 'c', 'u', 1, 1, 1)"
            )
        )
    _migrate(sqlite_engine, "0006", up=False)
    with sqlite_engine.begin() as connection:
        assert [dict(row._mapping) for row in connection.execute(tokens)] == before
        after = connection.execute(said).scalar_one()
        names = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
    assert not names & {"audit", "browser_sessions", "sign_in_codes"}
    for check in ("ck_tokens_scope", "ck_tokens_subject", "uq_tokens_token_hash"):
        assert (check in after) == (check in checks) is True
    assert "role" not in after
    upgrade(sqlite_engine)


_AFTER = """
INSERT INTO audit (owner_id, actor, action, outcome, data, at) VALUES ('o', 'a', 'x', 'done', '{}', 1);
INSERT INTO browser_sessions (id, token_id, secret_hash, csrf_secret, user_agent, created_at, last_seen_at, expires_at)
  VALUES ('b', 't-1', 's', 'c', 'u', 1, 1, 1);
INSERT INTO sign_in_codes (code_hash, token_id, created_at, expires_at) VALUES ('c', 't-1', 1, 1);
INSERT INTO runs (id, pipeline, version, subject_kind, subject_id, number, owner_id, step, rev, step_entered_at, results,
  created_at) VALUES ('r', 'order', 1, 'own', 'own-1', 1, 'o', 'paid', 0, 1, '{}', 1);
INSERT INTO own_runs (run_id, owner_id, subject) VALUES ('r', 'o', 'book 7');
INSERT INTO run_callbacks (run_id, signal, token_hash, created_at, expires_at) VALUES ('r', 'paid', 'h', 1, 1)
"""


def _execute(engine: Engine, statements: str) -> None:
    with engine.execution_options(taskflow_writes=True).begin() as connection:
        for statement in statements.strip().rstrip(";").split(";\n"):
            connection.execute(text(statement))


def _shape(engine: Engine) -> dict[str, Any]:
    """Of each table its columns, indexes and what its rows have to fit."""
    found = inspect(engine)
    return {
        table: (
            sorted((one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(table)),
            sorted((str(one["name"]), str(one["column_names"])) for one in found.get_indexes(table)),
            sorted(str(one["name"]) for one in found.get_check_constraints(table)),
            sorted((str(one["name"]), str(one["options"])) for one in found.get_foreign_keys(table)),
        )
        for table in found.get_table_names()
    }


@pytest.mark.integration
def test_migrations_are_taken_back_as_they_came_with_rows_in_the_tables(empty_database_url: str) -> None:
    """On both databases: what was there before has its old form again, and they can be applied anew."""
    engine = make_engine(empty_database_url)
    _migrate(engine, "0006", up=True)
    _execute(engine, _BEFORE)
    before = _shape(engine)
    upgrade(engine)
    after = _shape(engine)
    _execute(engine, _AFTER)
    _migrate(engine, "0006", up=False)
    assert _shape(engine) == before
    upgrade(engine)
    assert _shape(engine) == after
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, role FROM tokens ORDER BY id")).all()
    assert [tuple(row) for row in found] == [("t-1", "admin"), ("t-2", None)]
    engine.dispose()


@pytest.mark.integration
@pytest.mark.parametrize(
    ("scope", "role"), [("api", None), ("api", "king"), ("node", "viewer"), ("api", ""), ("workspace", "admin")]
)
def test_the_schema_knows_who_has_a_role(engine: Engine, scope: str, role: str | None) -> None:
    """On both databases, also once the migrations made the table anew."""
    database = Database(engine)
    subject = None if scope == "api" else "n-1"
    made = {"id": "t-9", "owner_id": "o", "name": "t", "token_hash": "h", "created_at": 1.0}
    database.write(lambda tx: tx.execute(text("INSERT INTO owners (id, name, created_at) VALUES ('o', 'o', 1)")))
    with pytest.raises(IntegrityError):
        database.write(lambda tx: tx.execute(insert(Token).values(**made, scope=scope, subject_id=subject, role=role)))


@pytest.mark.integration
def test_a_line_of_the_trail_is_never_changed(empty_database_url: str) -> None:
    """The migrated database itself refuses, whoever asks; deleting what is old is allowed."""
    engine = make_engine(empty_database_url)
    upgrade(engine)
    database = Database(engine)
    insert_line = insert(AuditRow).values(actor="a", action="x", outcome="refused", data={}, at=NOW)
    database.write(lambda tx: tx.execute(insert_line))
    with pytest.raises((DBAPIError, InfrastructureError), match="never changed"):
        database.write(lambda tx: tx.execute(update(AuditRow).values(outcome="done")))
    with database.read() as tx:
        assert tx.execute(select(AuditRow.outcome)).scalars().all() == ["refused"]
    database.write(lambda tx: tx.execute(delete(AuditRow)))
    assert _count(database, AuditRow) == 0
    engine.dispose()


@pytest.mark.integration
def test_of_many_who_use_a_link_at_once_one_is_signed_in(engine: Engine) -> None:
    """On both databases, however they race: the statement that uses it up is the proof."""
    clock = ManualClock(NOW)
    database = Database(engine)
    browsers = Browsers(database, clock, S)
    token = Accounts(database, clock).create_token(owner="ada", name="t")["token"]
    caller = browsers.sign_in(token, "b").caller
    for _ in range(3):
        code, start = browsers.make_link(caller)["code"], threading.Barrier(4)

        def use(code: str = code, start: threading.Barrier = start) -> SignedIn | Unauthorized:
            start.wait()
            try:
                return browsers.sign_in_with_code(code, "b")
            except Unauthorized as error:
                return error

        with ThreadPoolExecutor(4) as pool:
            outcomes = [one.result() for one in [pool.submit(use) for _ in range(4)]]
        assert len([one for one in outcomes if isinstance(one, SignedIn)]) == 1
    assert _count(database, BrowserSession) == 4


@pytest.mark.integration
def test_of_many_who_are_an_owners_first_each_acts_for_the_same(engine: Engine) -> None:
    """Processes of an application start together, and each says for whom it acts; so do two who make a token."""
    database = Database(engine)
    accounts = Accounts(database, ManualClock(NOW))
    for owner in ("ada", "bob", "cy"):
        start = threading.Barrier(4)

        def act(number: int, owner: str = owner, start: threading.Barrier = start) -> str:
            start.wait()
            if number % 2:
                return str(accounts.create_token(owner=owner, name="t")["owner_id"])
            return accounts.acting_for(owner, name="app").owner_id

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(act, range(4)))) == 1
    assert (_count(database, Owner), _count(database, Token)) == (3, 6)


def test_who_acts_for_an_owner_that_is_there_writes_nothing(sqlite_engine: Engine) -> None:
    """An application may ask for each request, and only look: a database that takes no writes does not hinder that."""
    upgrade(sqlite_engine)
    database = Database(sqlite_engine, ManualClock(NOW))
    accounts = Accounts(database, ManualClock(NOW))
    made = accounts.acting_for("ada", name="app")
    event.listen(sqlite_engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only = ON"))
    database.dispose()  # what is opened from now on only reads
    assert accounts.acting_for("ada", name="app") == made
    with pytest.raises(InfrastructureError):
        accounts.acting_for("bob", name="app")


def test_who_acts_for_an_owner_is_known_and_signs_no_browser_in(sqlite_engine: Engine) -> None:
    """An application's own code has no token that a browser's session could end with."""
    upgrade(sqlite_engine)
    database, clock = Database(sqlite_engine), ManualClock(NOW)
    caller = Accounts(database, clock).acting_for("ada", name="app")
    who = Tokens(database, clock).who_is(caller)
    assert (who["owner"], who["owner_id"], who["token_id"], who["expires_at"]) == ("ada", caller.owner_id, "", None)
    with pytest.raises(UsageError, match="has none"):
        Browsers(database, clock, S).make_link(caller)


def _count(database: Database, table: Any) -> int:
    with database.read() as tx:
        return len(tx.execute(select(table.__table__)).all())


@pytest.mark.integration
@pytest.mark.parametrize(
    ("heir", "former", "goes_on"),
    [
        ({}, {}, True), ({"owner": "bob"}, {}, False), ({"role": "admin"}, {}, False), ({"role": "viewer"}, {}, False),
        ({}, {"expires_s": 5.0}, False), ({}, {"expires_s": 50.0}, True), ({}, {"revoked": True}, False),
    ],
)  # fmt: skip
def test_a_browser_goes_on_with_a_token_of_the_same_rights_alone(
    engine: Engine, heir: dict[str, Any], former: dict[str, Any], goes_on: bool
) -> None:
    """Neither for somebody else, nor with other rights, nor when it is signed out already."""
    clock = ManualClock(NOW)
    database = Database(engine)
    accounts, browsers = Accounts(database, clock), Browsers(database, clock, S)
    old = accounts.create_token(owner="ada", name="old", role="operator", expires_s=former.get("expires_s"))
    new = accounts.create_token(**{"owner": "ada", "name": "new", "role": "operator", **heir})
    secret = browsers.sign_in(old["token"], "b").secret
    clock.advance(10)
    if former.get("revoked"):
        accounts.revoke_token(old["id"])
    browsers.hand_over(old["id"], new["id"])
    with database.read() as tx:
        assert tx.execute(select(BrowserSession.token_id)).scalar_one() == (new if goes_on else old)["id"]
    if goes_on:
        assert browsers.authenticate(secret).caller.token_id == new["id"]


def test_what_signed_out_browsers_leave_and_old_lines_are_pruned(sqlite_engine: Engine) -> None:
    """Sessions and links when their time is over, the trail by its own setting; 0 keeps it for ever."""
    upgrade(sqlite_engine)
    clock = ManualClock(NOW)
    database = Database(sqlite_engine, clock)
    accounts, browsers = Accounts(database, clock), Browsers(database, clock, S)
    token = accounts.create_token(owner="ada", name="t")["token"]
    caller = browsers.sign_in(token, "b").caller
    browsers.make_link(caller)

    clock.advance(S.browser_session_s - 1)
    fresh = browsers.sign_in(token, "b")
    done = prune_all(database, S, clock.now())
    assert (done["browsers"], done["audit"], _count(database, BrowserSession), _count(database, SignInCode)) == (
        1,
        0,
        2,
        0,
    )
    clock.advance(1)
    prune_all(database, S, clock.now())
    assert _count(database, BrowserSession) == 1 and browsers.authenticate(fresh.secret)

    clock.advance(S.audit_after_s)
    prune_all(database, dataclasses.replace(S, audit_after_s=0), clock.now())
    assert _count(database, AuditRow) == 1
    accounts.create_token(owner="ada", name="u")
    assert prune_all(database, S, clock.now())["audit"] == 1
    assert _count(database, AuditRow) == 1


def test_more_old_lines_than_a_page_go_too(sqlite_engine: Engine) -> None:
    """Page after page, each a transaction of its own."""
    upgrade(sqlite_engine)
    database = Database(sqlite_engine, ManualClock(NOW))
    line = {"actor": "a", "action": "x", "outcome": "done", "data": {}}
    rows = [{**line, "at": NOW - S.audit_after_s - 1} for _ in range(25)] + [{**line, "at": NOW}]
    database.write(lambda tx: tx.execute(insert(AuditRow), rows))
    assert prune_all(database, dataclasses.replace(S, sweep_page=10), NOW)["audit"] == 25
    assert _count(database, AuditRow) == 1
