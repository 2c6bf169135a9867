"""The servers the tests rely on do what the tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from tests.conftest import ValkeyDatabase
from tests.support.keys import assert_no_keys_left, keys_left
from tests.support.postgres_tree import POSTGRES_BIN_VARIABLE, shared_temp_dir
from tests.support.servers import VALKEY_BIN_VARIABLE, PostgresServer, ServerError, ValkeyServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


def _scalar(url: str, statement: str) -> object:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            return connection.execute(text(statement)).scalar()
    finally:
        engine.dispose()


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own, for what a shared one should not suffer."""
    with ValkeyServer(appendfsync="always") as server:
        yield server


def test_valkey_fixture_is_empty_and_real(valkey: ValkeyDatabase) -> None:
    """A test gets an empty database of a real server that refuses to evict keys."""
    assert valkey.client.dbsize() == 0
    assert valkey.client.info("server")["process_id"] == valkey.server.pid
    assert valkey.client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    valkey.client.set("left", "for the next test")


def test_valkey_fixture_is_empty_again_after_a_test_that_wrote(valkey: ValkeyDatabase) -> None:
    """What another test wrote is gone."""
    assert valkey.client.dbsize() == 0


def test_valkey_keeps_data_and_address_over_a_crash(own_valkey: ValkeyServer) -> None:
    """SIGKILL and start again: same URL, same data (append-only file)."""
    url, pid = own_valkey.url, own_valkey.pid
    with own_valkey.client() as client:
        client.set("kept", "yes")
    own_valkey.stop(sigkill=True)
    with own_valkey.client() as client, pytest.raises(redis.ConnectionError):
        client.ping()
    own_valkey.start()
    assert own_valkey.url == url
    assert own_valkey.pid != pid
    with own_valkey.client() as client:
        assert client.get("kept") == b"yes"


def test_wiped_valkey_has_forgotten_everything(own_valkey: ValkeyServer) -> None:
    """After ``wipe`` the next start finds no data and another server ``run_id``."""
    with own_valkey.client() as client:
        client.set("kept", "no")
        before = client.info("server")["run_id"]
    own_valkey.wipe()
    own_valkey.start()
    with own_valkey.client() as client:
        assert client.dbsize() == 0
        assert client.info("server")["run_id"] != before


def test_broken_valkey_fails_and_names_the_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that does nothing is an error with its name, not a skipped test."""
    monkeypatch.setenv(VALKEY_BIN_VARIABLE, "/bin/false")
    with pytest.raises(ServerError, match=r"/bin/false.*exited with status 1"), ValkeyServer():
        pass
    monkeypatch.setenv(VALKEY_BIN_VARIABLE, "/does/not/exist")
    with pytest.raises(ServerError, match=VALKEY_BIN_VARIABLE), ValkeyServer():
        pass


def test_broken_postgres_fails_and_names_the_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A binary that is no PostgreSQL is an error with its name, not a skipped test."""
    monkeypatch.setenv(POSTGRES_BIN_VARIABLE, "/bin/false")
    with pytest.raises(ServerError, match=f"{POSTGRES_BIN_VARIABLE}=/bin/false"), PostgresServer():
        pass
    for name in ("postgres", "initdb"):
        (tmp_path / name).symlink_to("/bin/false")
    monkeypatch.setenv(POSTGRES_BIN_VARIABLE, str(tmp_path))
    with pytest.raises(ServerError, match="is no PostgreSQL server"), PostgresServer():
        pass


@pytest.mark.parametrize("durable", [True, False])
def test_postgres_keeps_data_and_address_over_a_restart(durable: bool) -> None:
    """Stop and start again: same URL, same rows; a durable one also after a crash."""
    with PostgresServer(durable=durable) as server:
        url = server.create_database("kept")
        _execute(url, "CREATE TABLE t AS SELECT 7 AS n")
        assert _scalar(url, "SHOW fsync") == ("on" if durable else "off")
        server.stop()
        with pytest.raises(OperationalError):
            _scalar(url, "SELECT 1")
        server.start()
        assert _scalar(url, "SELECT n FROM t") == 7
        if durable:
            _execute(url, "UPDATE t SET n = 8")
            server.restart(crash=True)
            assert _scalar(url, "SELECT n FROM t") == 8


def test_databases_of_one_template_are_separate(postgres_server: PostgresServer) -> None:
    """A database made from a template starts with its tables and shares nothing with a sibling."""
    template = postgres_server.create_database("separate_template")
    _execute(template, "CREATE TABLE t (n int)")
    one = postgres_server.create_database("separate_one", template="separate_template")
    two = postgres_server.create_database("separate_two", template="separate_template")
    _execute(one, "INSERT INTO t VALUES (1)")
    assert (_scalar(one, "SELECT count(*) FROM t"), _scalar(two, "SELECT count(*) FROM t")) == (1, 0)
    for name in ("separate_one", "separate_two", "separate_template"):
        postgres_server.drop_database(name)
    with pytest.raises(OperationalError):
        _scalar(one, "SELECT 1")


def test_dropping_a_database_disconnects_its_users(postgres_server: PostgresServer) -> None:
    """A test that forgot a connection does not stop its database from being removed."""
    url = postgres_server.create_database("in_use").replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url) as connection:
        postgres_server.drop_database("in_use")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_empty_database_has_no_table(empty_database_url: str) -> None:
    """Migration tests start from nothing, on both backends."""
    schema = "sqlite_master" if empty_database_url.startswith("sqlite") else "pg_tables"
    where = "" if schema == "sqlite_master" else " WHERE schemaname = 'public'"
    assert _scalar(empty_database_url, f"SELECT count(*) FROM {schema}{where}") == 0


def test_each_test_has_a_schema_of_its_own(engine: Engine) -> None:
    """The engine fixture holds every table of the models, with no row in them."""
    from taskflow.db.models import Base

    assert set(inspect(engine).get_table_names()) >= set(Base.metadata.tables)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM tasks")).scalar() == 0


_START_AND_WAIT = """
import sys, time
from tests.support.servers import PostgresServer, ValkeyServer
server = {"valkey": ValkeyServer, "postgres": PostgresServer}[sys.argv[1]]()
server.start()
print(server.pid, server.directory.parent, flush=True)
sys.stdin.read()
"""


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
@pytest.mark.parametrize("kind", ["valkey", "postgres"])
def test_server_dies_with_a_killed_test_process(kind: str) -> None:
    """SIGKILL of the process that started a server leaves no server behind."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT, kind],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(shared_temp_dir())},
    )
    with parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        assert not _gone(int(pid))
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: _gone(int(pid)), f"{kind} {pid} ends after its parent was killed")
    subprocess.run(["rm", "-rf", directory], check=True)


def test_left_behind_keys_are_listed(fake_redis: redis.Redis) -> None:
    """A key of a run that ended is named; the installation's own and those of other prefixes are not."""
    fake_redis.set("tf:{0}:incarnation", "x")
    fake_redis.set("other:{0}:run:1", "x")
    assert_no_keys_left(fake_redis, "tf:")
    fake_redis.hset("tf:{0}:run:run-1", "step", "s")
    assert keys_left(fake_redis, "tf:") == ["tf:{0}:run:run-1"]
    with pytest.raises(AssertionError, match=r"tf:\{0\}:run:run-1 \(hash\)"):
        assert_no_keys_left(fake_redis, "tf:")


def test_fake_redis_runs_lua_with_time(fake_redis: redis.Redis) -> None:
    """The in-process stand-in runs scripts and answers bytes, as the engine's scripts need."""
    script = fake_redis.register_script("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('TIME')")
    seconds, micros = script(keys=["k"], args=["v"])
    assert int(seconds) > 1_700_000_000
    assert 0 <= int(micros) < 1_000_000
    assert fake_redis.get("k") == b"v"
