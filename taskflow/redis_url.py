"""Where Redis is, also behind Sentinel: ``sentinel://[user:password@]host[:port],host[:port]/<master name>[/<database>]``.

User and password are those of the Redis servers; the sentinels themselves are asked without one, and without TLS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import redis
from redis.sentinel import Sentinel

from taskflow.errors import unreadable_url

_SENTINEL_PORT = 26379
_FORM = "sentinel://[user:password@]host[:port],host[:port]/<master name>[/<database>]"
_SERVER_FORM = "redis://[[user]:password@]host[:port][/database], or rediss:// for TLS"


@dataclass(frozen=True)
class SentinelUrl:
    """A URL of the form above, taken apart."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def broker_url(self) -> str:
        """The same for Celery, which is told the master's name by an option of the transport."""
        login = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(f"sentinel://{login}{_bracketed(host)}:{port}/{self.database}" for host, port in self.hosts)


def parse_sentinel(url: str, variable: str) -> SentinelUrl | None:
    """``url`` taken apart, None when it is of another scheme. Raises ``UsageError`` naming ``variable``."""
    if not url.startswith("sentinel://"):
        return None
    try:
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        master, _, database = parts.path.strip("/").partition("/")
        found = SentinelUrl(
            hosts=tuple(_host(text) for text in hosts.split(",")), master=unquote(master), database=int(database or 0),
            username=unquote(username) or None, password=unquote(password) or None,
        )  # fmt: skip
    except ValueError:
        found = None
    if found is None or not found.master or parts.query or found.database < 0:
        raise unreadable_url(variable, _FORM)
    return found


def connect(url: str, variable: str, **options: Any) -> redis.Redis:
    """A client of the server, or of whichever one the sentinels call the master now. Connects at the first use.

    Raises ``UsageError`` naming ``variable`` for what is no URL of either.
    """
    found = parse_sentinel(url, variable)
    if found is None:
        return _server(url, variable, options)
    sentinel_options = {name: value for name, value in options.items() if name.startswith("socket_")}
    make: Any = Sentinel  # has no types
    client: redis.Redis = make(found.hosts, sentinel_kwargs=sentinel_options).master_for(
        found.master, redis.Redis, db=found.database, username=found.username, password=found.password, **options
    )
    return client


def check_readable(url: str, variable: str, form: str) -> None:
    """Raise ``UsageError`` naming ``variable`` and the ``form`` unless scheme, host and port can be told apart.

    In a password that holds ``/``, ``?`` or ``#`` as they are, a part of it stands where the port is looked for, and
    whoever reads the URL later says it back. Celery takes several URLs with ``;`` between them.
    """
    if not all(_is_readable(one) for one in url.split(";")):
        raise unreadable_url(variable, form)


def _is_readable(url: str) -> bool:
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return "://" in url


def _server(url: str, variable: str, options: dict[str, Any]) -> redis.Redis:
    if not url.startswith("unix://"):
        check_readable(url, variable, _SERVER_FORM)
    try:
        return redis.Redis.from_url(url, **options)
    except ValueError:  # not chained: it may hold a part of the URL
        raise unreadable_url(variable, _SERVER_FORM) from None


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or _SENTINEL_PORT


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
