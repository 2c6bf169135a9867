"""Versions of what taskflow runs on, and those of them that are known to lose, corrupt or stop something, with why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from taskflow.service.diagnosis import Finding

Version = tuple[int, ...]
CELERY, REDIS_PY, SQLITE, POSTGRESQL, REDIS, VALKEY = "Celery", "redis-py", "SQLite", "PostgreSQL", "Redis", "Valkey"
#: The server that a Redis says it is, and the server of the broker where that is another one.
OF_BROKER = "of the broker"


@dataclass(frozen=True)
class KnownBad:
    """Versions of ``name`` from ``first`` up to, without, ``mended``. ``risk`` and ``consequence`` as in ``Finding``.

    ``redis_broker``: only where the broker is a Redis.
    """

    name: str
    first: Version
    mended: Version
    state: str
    risk: str
    consequence: str
    advice: str
    redis_broker: bool = False


_WAL_RESET = (
    "lost",
    "two processes that write and checkpoint at the same instant may, very rarely, leave a database that is corrupt (its "
    "WAL-reset bug)",
    "take SQLite 3.51.3 or later (3.44.6 and 3.50.7 have it mended too, and so has a package whose distributor took the "
    "mending over), or PostgreSQL; keep backups",
)
KNOWN_BAD = (
    KnownBad(
        CELERY, (5, 7, 0), (5, 7, 1), "error", "delayed",
        "a worker that holds a message ends when the broker restarts; every task stands still until something starts "
        "workers again", "install celery 5.6.3", redis_broker=True,
    ),
    KnownBad(SQLITE, (3, 7, 0), (3, 44, 6), "warning", *_WAL_RESET),
    KnownBad(SQLITE, (3, 45, 0), (3, 50, 7), "warning", *_WAL_RESET),
    KnownBad(SQLITE, (3, 51, 0), (3, 51, 3), "warning", *_WAL_RESET),
    KnownBad(
        POSTGRESQL, (14, 0), (14, 4), "error", "lost",
        "an index that was made or rebuilt CONCURRENTLY may miss rows: tasks and runs that are there are not found",
        "install 14.4 or later, then REINDEX what was built CONCURRENTLY",
    ),
    KnownBad(
        REDIS, (0,), (5, 0), "error", "delayed",
        "it refuses scripts that ask for the time and then write, as every one of ours does: nothing runs",
        "install Redis 5 or later, or Valkey",
    ),
)  # fmt: skip


def parsed(version: str) -> Version:
    """``15.18 (Debian 15.18-0)`` -> ``(15, 18)``: the numbers at its beginning."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def of_server(server: Mapping[str, object]) -> tuple[str, str]:
    """What a Redis is, and its version, by its INFO server. A Valkey says for old clients a version of Redis as well."""
    if "valkey_version" in server:
        return VALKEY, str(server["valkey_version"])
    return REDIS, str(server.get("redis_version", "unknown"))


def judged(found: Mapping[str, str], *, redis_broker: bool) -> list[Finding]:
    """All versions in one line, and a finding for each that is known to be bad. ``found``: by name, on this host."""
    every = ", ".join(f"{name} {version}" for name, version in found.items())
    return [Finding("versions", "ok", every), *(
        Finding(f"version of {name}", bad.state, version, bad.risk, bad.consequence, None, bad.advice)
        for name, version in found.items()
        for bad in KNOWN_BAD
        if name.removesuffix(f" {OF_BROKER}") == bad.name and bad.first <= parsed(version) < bad.mended
        and (redis_broker or not bad.redis_broker)
    )]  # fmt: skip
