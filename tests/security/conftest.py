"""The web world, and a picture of everything SQL holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from sqlalchemy import select

from taskflow.db.models import Base
from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

Picture = Callable[[], str]


@pytest.fixture
def picture(world: World) -> Picture:  # noqa: F811
    """A hash of every row of every table: two pictures are equal when nothing was written in between."""

    def take() -> str:
        with world.database.read() as tx:
            rows = {
                table.name: sorted(repr(tuple(row)) for row in tx.execute(select(table)))
                for table in Base.metadata.sorted_tables
            }
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    return take
