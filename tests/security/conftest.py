"""The web world, and a picture of everything SQL holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Table, select

from taskflow.db.models import Base
from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

Picture = Callable[[], str]
#: When somebody was there, refused or not.
_TRACES = frozenset({"last_used_at", "last_seen_at"})


def _kept(table: Table) -> list[ColumnElement[Any]]:
    return [column for column in table.columns if column.name not in _TRACES]


@pytest.fixture
def picture(world: World) -> Picture:  # noqa: F811
    """A hash of every row of every table: two pictures are equal when nothing was written in between.

    Left out is what a refusal leaves on purpose: its line of the audit trail, and when the caller was seen.
    """

    def take() -> str:
        with world.database.read() as tx:
            rows = {
                table.name: sorted(repr(tuple(row)) for row in tx.execute(select(*_kept(table))))
                for table in Base.metadata.sorted_tables
                if table.name != "audit"
            }
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    return take
