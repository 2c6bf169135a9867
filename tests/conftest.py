"""Fixtures of all tests: real servers (one of each per test process, started when first asked for), settings, clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fakeredis
import pytest
import redis

from taskflow.clock import ManualClock
from taskflow.settings import Settings
from tests.support.databases import (  # noqa: F401  fixtures
    database_url,
    empty_database_url,
    engine,
    postgres_template,
    sqlite_template,
)
from tests.support.servers import PostgresServer, ValkeyServer


@dataclass(frozen=True)
class ValkeyDatabase:
    """An empty database of a real server: its URL, a client that answers bytes, and the server itself."""

    url: str
    client: redis.Redis
    server: ValkeyServer


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One real Valkey for this test process. Raises ``ServerError``, so the test fails, when it does not work."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One real PostgreSQL for this test process. Raises ``ServerError``, so the test fails, when it does not work."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> Iterator[ValkeyDatabase]:
    """The real Valkey, emptied. A test that stops or restarts it leaves nothing to the next one."""
    valkey_server.start()
    with valkey_server.client() as client:
        client.flushall()
        client.config_resetstat()
        yield ValkeyDatabase(valkey_server.url, client, valkey_server)


@pytest.fixture
def fake_redis() -> Iterator[redis.Redis]:
    """An in-process Redis that runs Lua and answers bytes; its ``TIME`` follows time-machine."""
    with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=False) as client:
        yield client


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that moves only when told."""
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a data directory of the test's own and waits short enough for a test."""
    made = dataclasses.replace(
        Settings(),
        data_dir=str(tmp_path),
        secret_key="only-for-tests-" + "0" * 32,
        port=0,
        flower_port=0,
        key_prefix="tf-test",
        lease_s=1.0,
        ring_grace_s=0.2,
        pump_interval_s=0.05,
        retry_base_s=0.02,
        retry_max_s=0.2,
        rescue_interval_s=0.5,
        newer_state_retry_s=0.5,
        worker_concurrency=2,
        heartbeat_interval_s=0.5,
        heartbeat_grace_s=2.0,
        heartbeat_stale_s=3.0,
        capacity_poll_s=0.5,
        provision_poll_s=0.1,
        liveness_poll_s=0.5,
        outbox_interval_s=0.5,
    )
    made.check_ladder()
    return made
