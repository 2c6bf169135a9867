"""Looking for Redis keys that were left behind."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import redis

#: The incarnation and the worker processes that live belong to the installation, not to a run: they stay.
KEYS_OF_THE_INSTALLATION = ("*:incarnation", "*:workers")


def keys_left(client: redis.Redis, prefix: str, *, allowed: Iterable[str] = KEYS_OF_THE_INSTALLATION) -> list[str]:
    """The keys that start with ``prefix`` and match none of ``allowed`` (shell patterns of the whole key), sorted."""
    patterns = tuple(allowed)
    found: list[str] = []
    for raw in client.scan_iter(count=1000):
        key = _text(raw)
        # No MATCH in the scan: a prefix may hold characters that Redis reads as a pattern.
        if key.startswith(prefix) and not any(fnmatchcase(key, pattern) for pattern in patterns):
            found.append(key)
    return sorted(set(found))


def assert_no_keys_left(client: redis.Redis, prefix: str, *, allowed: Iterable[str] = KEYS_OF_THE_INSTALLATION) -> None:
    """Every run of ``prefix`` has ended and left nothing. The failure lists the keys with their types."""
    left = keys_left(client, prefix, allowed=allowed)
    described = [f"{key} ({_text(client.type(key))})" for key in left]
    assert not left, f"{len(left)} keys left behind: " + ", ".join(described[:20])


def _text(raw: object) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)
