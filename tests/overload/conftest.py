"""Fixtures of the overload tests."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from taskflow import protocol
from taskflow.clock import ManualClock
from taskflow.db.session import Database, make_engine
from taskflow.engine.control import Control
from taskflow.settings import Settings
from taskflow.vault import Vault
from tests.agent.conftest import agent, control_plane, isolate, rig
from tests.engine.conftest import MakeRig, make_rig
from tests.support.world_fixtures import make_world, migrated_file, world
from tests.web import world as web_world
from web import create_app

__all__ = [
    "MakeRig",
    "WebWorld",
    "agent",
    "control_plane",
    "isolate",
    "make_rig",
    "make_world",
    "migrated_file",
    "rig",
    "world",
]


@dataclasses.dataclass
class WebWorld:
    """The real app and service on SQLite, as the tests of the web have it, with small limits."""

    world: web_world.World


@pytest.fixture
def web(
    tmp_path: Path, sqlite_template: Path, fake_redis: redis.Redis, settings: Settings, manual_clock: ManualClock
) -> Iterator[WebWorld]:
    """An app whose sessions may log one chunk; two more are its tolerance."""
    settings = dataclasses.replace(settings, log_limit_bytes=protocol.LOG_CHUNK_BYTES_MAX)
    path = tmp_path / "web.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(make_engine(f"sqlite:///{path}"))
    control = Control(fake_redis, prefix="tf-test", shards=1, lease_s=1.0, near_window_s=1.0, ring_grace_s=0.2)
    service, publisher = web_world.build_service(database, control, settings, manual_clock)
    yield WebWorld(
        web_world.World(
            client=create_app(service, settings).test_client(), service=service, database=database,
            publisher=publisher, clock=manual_clock, vault=Vault(settings.secret_key),
            token=service.accounts.create_token(owner="ada", name="cli")["token"],
            other_token=service.accounts.create_token(owner="bob", name="cli")["token"],
        )
    )  # fmt: skip
    database.dispose()
