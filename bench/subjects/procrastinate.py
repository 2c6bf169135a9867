"""Procrastinate on PostgreSQL: two workers of ten jobs at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.installing import python_of
from bench.subjects import Subject
from bench.subjects.outside import Piped, folder_of, process
from tests.support.servers import PostgresServer

_PACKAGES = {"procrastinate": "3.10.0", "psycopg[binary]": "3.3.9"}


@contextlib.contextmanager
def procrastinate() -> Iterator[Subject]:
    """With a database that commits durably."""
    python = python_of("procrastinate", _PACKAGES)
    command = [str(python), "-m", "bench.peers.procrastinate_steps"]
    with PostgresServer(durable=True) as server, folder_of("procrastinate") as folder, contextlib.ExitStack() as stack:
        url = server.create_database("bench").replace("postgresql+psycopg://", "postgresql://")
        log = folder / "procrastinate.log"
        client = Piped(folder, stack.enter_context(process([*command, "client", url], folder, log)), log)
        for _ in range(2):
            stack.enter_context(process([*command, "worker", url], folder, log))
        yield client


def versions() -> dict[str, str]:
    """What of it was measured."""
    return dict(_PACKAGES)
