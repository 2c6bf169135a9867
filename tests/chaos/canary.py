"""Looks for secrets in every place where they must not be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import redis
from sqlalchemy import Engine, text

_CHUNK = 1 << 20
#: Where a secret is kept on purpose, readable by its owner alone.
_ALLOWED = ("stack.json", "secret.key")


class Canary:
    """Searches for ``needles``; what is found is named by its sink, never shown."""

    def __init__(self, needles: Iterable[str]) -> None:
        self.needles = [needle.encode() for needle in needles]
        self.in_arguments: set[str] = set()
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
                if self._in(said):
                    self.in_arguments.add(said.replace(b"\0", b" ")[:60].decode(errors="replace"))

    def _in(self, data: bytes) -> bool:
        return any(needle in data for needle in self.needles)

    def in_sql(self, engine: Engine) -> list[str]:
        """Every row of every table as PostgreSQL writes it; bytes are searched as their hexadecimal text."""
        hexed = [needle.hex().encode() for needle in self.needles]
        found = []
        with engine.connect() as sql:
            tables = [
                row[0] for row in sql.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
            ]
            for table in tables:
                for row in sql.execute(text(f'SELECT t::text FROM "{table}" t')):
                    said = str(row[0]).encode()
                    if self._in(said) or any(needle in said for needle in hexed):
                        found.append(f"SQL table {table}")
                        break
        return found

    def in_redis(self, client: redis.Redis) -> list[str]:
        """Every key and value."""
        return [f"Redis key {key!r}" for key in client.scan_iter(count=1000) if self._in(key + _value(client, key))]

    def in_files(self, *roots: Path) -> list[str]:
        """Every file below ``roots``, but for those that hold a secret on purpose."""
        return [f"file {path}" for root in roots for path in _files(root) if self._in_file(path)]

    def _in_file(self, path: Path) -> bool:
        longest = max(len(needle) for needle in self.needles)
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
    readers = {
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
