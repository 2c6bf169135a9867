"""Rigs: in-process Redis and SQLite in moved time, and the real servers in real time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from taskflow.engine.pipeline import Pipeline
from taskflow.settings import Settings
from tests.conftest import ValkeyDatabase
from tests.support.engine import Rig, moved_time

MakeRig = Callable[..., Rig]


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged. Kept instead of printed: rendering a traceback takes longer than most of these tests."""
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.fixture
def make_rig(tmp_path: Path, sqlite_template: Path, fake_redis: redis.Redis, settings: Settings) -> Iterator[MakeRig]:
    """Makes a rig with the given pipelines on SQLite and an in-process Redis; time stands still until shifted."""
    path = tmp_path / "toy.db"
    shutil.copyfile(sqlite_template, path)
    made: list[Rig] = []
    with moved_time() as traveller:

        def make(*pipelines: Pipeline) -> Rig:
            rig = Rig(f"sqlite:///{path}", fake_redis, settings, *pipelines)
            rig.traveller = traveller
            made.append(rig)
            return rig

        yield make
        for rig in made:
            rig.close()


@pytest.fixture
def make_real_rig(database_url: str, valkey: ValkeyDatabase, settings: Settings) -> Iterator[MakeRig]:
    """Makes a rig on both databases in turn and a real Valkey, in real time."""
    made: list[Rig] = []

    def make(*pipelines: Pipeline) -> Rig:
        rig = Rig(database_url, valkey.client, settings, *pipelines)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.close()
