"""DBOS Transact on PostgreSQL, in one process as its documentation starts it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.installing import python_of
from bench.subjects import Subject
from bench.subjects.outside import Piped, folder_of, process
from tests.support.servers import PostgresServer

_PACKAGES = {"dbos": "3.4.0", "psycopg[binary]": "3.3.9"}


@contextlib.contextmanager
def dbos() -> Iterator[Subject]:
    """With a database that commits durably."""
    python = python_of("dbos", _PACKAGES)
    with PostgresServer(durable=True) as server, folder_of("dbos") as folder:
        url = server.create_database("bench").replace("postgresql+psycopg://", "postgresql://")
        log = folder / "dbos.log"
        with process([str(python), "-m", "bench.peers.dbos_steps", url], folder, log) as child:
            yield Piped(folder, child, log)


def versions() -> dict[str, str]:
    """What of it was measured."""
    return dict(_PACKAGES)
