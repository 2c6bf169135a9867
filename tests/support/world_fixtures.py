"""Fixtures of the world: one migrated database file to copy, one world for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from taskflow.db import migrate
from taskflow.db.session import make_engine
from tests.support.world import World, world_of

MakeWorld = Callable[..., World]
#: A catalogue of other machines alone.
_REMOTE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "debian-12"
nodes_max = 10
owner_nodes_max = 10
parallel_max = 2
offer = [{size = "s", location = "fsn1", vcpus = 2, memory_mb = 4000, slots = 2, price_per_hour = 0.01}]
"""


def worlds_with(make_world: MakeWorld, path: Path, providers: str, **defaults: Any) -> MakeWorld:
    """Makes worlds with this file of ``providers``, which is written to ``path``; keyword arguments are settings."""

    def make(**settings: Any) -> World:
        path.write_text(providers)
        given = {"providers_file": str(path), "public_url": "https://control.example", **defaults, **settings}
        return make_world(**given)

    return make


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that the migrations made, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "taskflow.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate.upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def make_world(tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorld]:
    """Makes a world with settings of the test's own."""
    with ExitStack() as stack:

        def make(**settings: Any) -> World:
            return stack.enter_context(world_of(tmp_path, migrated_file, monkeypatch, **settings))

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world with the default settings."""
    return make_world()


@pytest.fixture
def make_remote_world(make_world: MakeWorld, tmp_path: Path) -> MakeWorld:
    """Makes a world whose nodes are other machines, reached over a network; keyword arguments are settings."""

    return worlds_with(make_world, tmp_path / "providers.toml", _REMOTE)


@pytest.fixture
def remote_world(make_remote_world: MakeWorld) -> World:
    """A world of other machines with the default settings."""
    return make_remote_world()
