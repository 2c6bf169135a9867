"""The world of the web tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask

from taskflow.clock import ManualClock
from taskflow.db.session import Database, make_engine
from taskflow.engine.control import Control
from taskflow.service import Service
from taskflow.settings import Settings
from taskflow.vault import Vault
from tests.web.world import World, build_service
from web import create_app


@pytest.fixture
def database(tmp_path: Path, sqlite_template: Path) -> Iterator[Database]:
    """An empty SQLite database with the schema."""
    path = tmp_path / "taskflow.db"
    shutil.copyfile(sqlite_template, path)
    found = Database(make_engine(f"sqlite:///{path}"))
    yield found
    found.dispose()


@pytest.fixture
def control(fake_redis: redis.Redis, settings: Settings) -> Control:
    """Control state in an in-process Redis."""
    return Control(
        fake_redis,
        prefix=settings.key_prefix,
        shards=settings.shards,
        lease_s=settings.lease_s,
        near_window_s=settings.near_window_s,
        ring_grace_s=settings.ring_grace_s,
    )


@pytest.fixture
def world(database: Database, control: Control, settings: Settings, manual_clock: ManualClock) -> World:
    """The app over a real service, with two owners."""
    service, publisher = build_service(database, control, settings, manual_clock)
    app = create_app(service, settings)
    return World(
        client=app.test_client(),
        service=service,
        database=database,
        publisher=publisher,
        clock=manual_clock,
        token=service.accounts.create_token(owner="ada", name="cli")["token"],
        vault=Vault(settings.secret_key),
        other_token=service.accounts.create_token(owner="bob", name="cli")["token"],
    )


@pytest.fixture
def app(world: World) -> Flask:
    """The app of the world."""
    return world.client.application


@pytest.fixture
def service(world: World) -> Service:
    """The service of the world."""
    return world.service
