"""Looks for secrets in every place where they must not be."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine, text

_CHUNK = 1 << 20
#: What every derived token looks like: what it is for, and its signature.
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{16,200}\.[A-Za-z0-9_-]{27}")
_TOKEN_BYTES_MAX = 228
_HEX = re.compile(rb"\\\\x((?:[0-9a-f]{2})+)")
#: Where a secret is kept on purpose, readable by its owner alone.
_ALLOWED = ("stack.json", "secret.key")


class Canary:
    """Searches for ``needles``; what is found is named by its sink, never shown."""

    def __init__(self, needles: Iterable[str]) -> None:
        self.needles = [needle.encode() for needle in needles]
        #: Tokens that are known only at the end: one look for all of them together.
        self.tokens: frozenset[bytes] = frozenset()
        self._arguments: set[bytes] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="canary", daemon=True)

    def start(self) -> None:
        """Begin to look at the arguments of every process, twice a second."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more at arguments."""
        self._stop.set()
        self._thread.join(10)

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            for entry in Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    said = (entry / "cmdline").read_bytes()
                except OSError:
                    continue  # it ended while we looked
                self._arguments.add(said)

    def in_arguments(self) -> list[str]:
        """Every command line that was seen."""
        found = (said for said in self._arguments if self._in(said))
        return sorted({f"arguments of {said.replace(bytes(1), b' ')[:60].decode(errors='replace')}" for said in found})

    def _in(self, data: bytes) -> bool:
        if any(needle in data for needle in self.needles):
            return True
        return bool(self.tokens) and any(found in self.tokens for found in _TOKEN.findall(data))

    def in_sql(self, engine: Engine) -> list[str]:
        """Every row of every table as PostgreSQL writes it, and its bytes, which PostgreSQL writes as hexadecimal."""
        found = []
        with engine.connect() as sql:
            tables = [
                row[0] for row in sql.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
            ]
            for table in tables:
                for row in sql.execute(text(f'SELECT t::text FROM "{table}" t')):
                    said = str(row[0]).encode()
                    if self._in(said) or any(self._in(bytes.fromhex(part.decode())) for part in _HEX.findall(said)):
                        found.append(f"SQL table {table}")
                        break
        return found

    def in_redis(self, client: redis.Redis) -> list[str]:
        """Every key and value."""
        return [f"Redis key {key!r}" for key in client.scan_iter(count=1000) if self._in(key + _value(client, key))]

    def in_files(self, *roots: Path) -> list[str]:
        """Every file below ``roots``, but for those that hold a secret on purpose."""
        return [f"file {path}" for root in roots for path in _files(root) if self.in_file(path)]

    def in_file(self, path: Path) -> bool:
        """Whether one file holds any."""
        longest = max(_TOKEN_BYTES_MAX, *(len(needle) for needle in self.needles))
        try:
            with path.open("rb") as file:
                before = b""
                while data := file.read(_CHUNK):
                    if self._in(before + data):
                        return True
                    before = data[-longest:]
        except OSError:
            pass  # removed while we looked: it is gone
        return False


def _value(client: redis.Redis, key: bytes) -> bytes:
    kind = client.type(key)
    readers: dict[bytes | str, Callable[[], Any]] = {
        b"string": lambda: client.get(key), b"hash": lambda: client.hgetall(key),
        b"list": lambda: client.lrange(key, 0, -1), b"set": lambda: client.smembers(key),
        b"zset": lambda: client.zrange(key, 0, -1, withscores=True),
    }  # fmt: skip
    return repr(readers.get(kind, lambda: client.dump(key))()).encode()


def _files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if name not in _ALLOWED and path.is_file() and not path.is_symlink():
                yield path
