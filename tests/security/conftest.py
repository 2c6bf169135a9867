"""The web world, and a picture of everything SQL holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import MetaData, select

from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

Picture = Callable[[], str]


@pytest.fixture
def picture(world: World) -> Picture:  # noqa: F811
    """A hash of every row of every table: two pictures are equal when nothing was written in between."""

    def take() -> str:
        with world.database.read() as tx:
            found = MetaData()
            found.reflect(tx)
            rows: dict[str, Any] = {
                name: sorted(repr(tuple(row)) for row in tx.execute(select(table)))
                for name, table in sorted(found.tables.items())
            }
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    return take
