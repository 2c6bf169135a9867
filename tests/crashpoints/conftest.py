"""One stack for each module and database; its worker dies and is started again all the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crashpoints.stack import CrashStack
from tests.support.databases import BACKENDS

__all__ = ["crash_stack"]


#: With ``--dist loadgroup`` each database has a process of its own, so that its stack is started once.
_PARAMS = [pytest.param(name, marks=pytest.mark.xdist_group(f"crashpoints-{name}")) for name in BACKENDS]


@pytest.fixture(scope="module", params=_PARAMS)
def crash_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashStack]:
    """The stack on SQLite, then on PostgreSQL."""
    url = ""
    if request.param == "postgresql":
        name = f"crashpoints_{request.module.__name__.rpartition('.')[2]}"
        url = request.getfixturevalue("postgres_server").create_database(name)
    with CrashStack(tmp_path_factory.mktemp("crashpoints"), url) as stack:
        yield stack


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a walk leaves its evidence."""
    return tmp_path
