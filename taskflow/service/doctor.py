"""The doctor: asks stores, clocks, disks and the callback address for facts, and has them judged one by one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
import requests
from sqlalchemy import text

from taskflow.broker import Application
from taskflow.db.session import Database, is_postgresql
from taskflow.engine.control import Control
from taskflow.errors import InfrastructureError
from taskflow.logs import mask_text
from taskflow.nodes.catalogue import Catalogue
from taskflow.service import diagnosis, versions
from taskflow.service.diagnosis import Finding
from taskflow.service.health import Health
from taskflow.service.outages import STORES, explained
from taskflow.settings import Settings
from taskflow.sweeps.lateness import WATCHER, standings

_ADDRESS_TIMEOUT_S = 3.0
#: Whether it is PostgreSQL -> what the database is, and how it is asked for its version.
_VERSION = {
    True: (versions.POSTGRESQL, "SHOW server_version"),
    False: (versions.SQLITE, "SELECT sqlite_version()"),
}


class Doctor:
    """Examines an installation from this host. ``callback_url``: where nodes report to, as far as this host knows.
    ``celery_app``: the application that alarms are published by, whose settings are judged as they are."""

    def __init__(
        self,
        database: Database,
        control: Control,
        health: Health,
        catalogue: Catalogue,
        settings: Settings,
        *,
        celery_app: Application,
        callback_url: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._control = control
        self._health = health
        self._catalogue = catalogue
        self._settings = settings
        self._celery_app = celery_app
        #: INFO of the broker's Redis where that is another one than the control store's, once it was asked for.
        self._other: Mapping[str, Any] | None = None
        self._callback_url = callback_url
        self._wall = wall

    def examine(self) -> list[dict[str, Any]]:
        """Every check, in an order for reading: ``{"check", "state", "says", "risk", "consequence", "at_most_s",
        "advice"}`` each. What can't be looked at is a warning of its own and keeps no other from its turn."""
        ready = self._health.doctor()
        down = {one["check"] for one in ready if one["state"] == "error"} & set(STORES)
        found: list[Finding] = []
        if not down & {"redis", "redis_writes"}:
            found += self._try("redis settings", self._redis)
        if not down & {"database", "migrations"}:
            found += self._try("database durability", self._durability)
        if not down:
            found += self._try("scheduled jobs", self._scheduled)
            found += self._try("alarms", self._alarms)
            found += self._try("clocks", self._clocks)
        # One that is away is said already, and would be waited for.
        if any(one["check"] == "broker" and one["state"] == "ok" for one in ready):
            found += self._try("broker redis settings", self._broker_redis)
        found += self._try("celery", self._celery)
        found += self._try("versions", partial(self._versions, stores=not down))
        found += self._try("callback address", self._address)
        found += self._try("host", self._host)
        mine = {one.check for one in found}
        paused = self._health.paused_sweeps() if not down else frozenset()
        theirs = [explained(one, paused) for one in ready if one["check"] not in mine]
        return [one.view() for one in (*theirs, *found)]

    def _try(self, name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
        try:
            return list(look())
        except (redis.RedisError, InfrastructureError, OSError) as error:
            says = f"could not be looked at: {mask_text(str(error)) or type(error).__name__}"
            return [Finding(name, "warning", says, advice="see to it by hand")]

    def _redis(self) -> Iterable[Finding]:
        yield from self._judged_redis(self._control.client.info())

    def _judged_redis(self, info: Mapping[str, Any]) -> Iterable[Finding]:
        yield diagnosis.eviction(info, self._settings)
        yield diagnosis.memory_room(info)
        yield diagnosis.persistence(info, self._settings)

    def _broker_redis(self) -> Iterable[Finding]:
        self._other = self._other_redis()
        for found in self._judged_redis(self._other) if self._other is not None else ():
            yield diagnosis.of_broker(found, self._settings)

    def _other_redis(self) -> dict[str, Any] | None:
        """INFO of the broker's Redis; None where it is the control store's as well, or no Redis."""
        info = self._celery_app.redis_info()
        same = info is not None and info.get("run_id") == self._server().get("run_id")
        return None if same else info

    def _server(self) -> dict[str, Any]:
        """INFO server of the control store's Redis; empty where it is refused, as some who sell one do."""
        try:
            found: dict[str, Any] = self._control.client.info("server")
            return found
        except redis.RedisError:
            return {}

    def _celery(self) -> Iterable[Finding]:
        conf, transport = self._celery_app.conf, self._celery_app.transport
        yield diagnosis.acknowledgement(self._celery_app.acknowledges_late, self._settings)
        yield diagnosis.visibility(conf, transport, self._settings)
        yield diagnosis.patience(conf, transport)

    def _versions(self, *, stores: bool) -> Iterable[Finding]:
        """Of this host's libraries and, where they answer, the ``stores`` and the broker."""
        found = {**self._celery_app.versions, versions.REDIS_PY: redis.__version__}
        if stores:
            name, ask = _VERSION[is_postgresql(self._database.engine)]
            with self._database.read() as tx:
                found[name] = str(tx.execute(text(ask)).scalar_one())
            name, version = versions.of_server(self._server())
            found[name] = version
        if self._other is not None:
            name, version = versions.of_server(self._other)
            found[f"{name} {versions.OF_BROKER}"] = version
        yield from versions.judged(found, redis_broker=self._celery_app.transport == "redis")

    def _durability(self) -> Iterable[Finding]:
        names = ("fsync", "synchronous_commit") if is_postgresql(self._database.engine) else ("synchronous",)
        with self._database.read() as tx:
            for name in names:
                ask = f"SHOW {name}" if is_postgresql(self._database.engine) else f"PRAGMA {name}"
                finding = diagnosis.durability(name, str(tx.execute(text(ask)).scalar_one()))
                if finding.state != "ok" or name == names[-1]:
                    yield finding
                    return

    def _scheduled(self) -> Iterable[Finding]:
        now, paused = self._control.now(), self._health.paused_sweeps()
        sweeps = {
            one.name: one for one in standings(self._database, self._settings.sweep_intervals(), now)
            if one.name not in paused
        }  # fmt: skip
        rescue, other = sweeps.get(WATCHER), sweeps.get("outbox")
        if rescue is not None:
            yield diagnosis.workers(rescue.age_s, self._settings)
        if other is not None:
            yield diagnosis.beat(None if rescue is None else rescue.age_s, other.waited_s, self._settings)

    def _alarms(self) -> Iterable[Finding]:
        now, late, oldest_s = self._control.now(), 0, 0.0
        for shard in range(self._settings.shards):
            key = self._control.alarms_key(shard)
            late += int(self._control.client.zcount(key, "-inf", now - self._settings.alarm_overdue_s))
            first: list[Any] = self._control.client.zrange(key, 0, 0, withscores=True)
            oldest_s = max(oldest_s, now - float(first[0][1]) if first else 0.0)
        yield diagnosis.alarms(late, oldest_s, self._settings)

    def _clocks(self) -> Iterable[Finding]:
        yield diagnosis.skew("of Redis", self._ahead(self._control.now), self._settings)
        if is_postgresql(self._database.engine):
            yield diagnosis.skew("of the database", self._ahead(self._database_time), self._settings)

    def _database_time(self) -> float:
        with self._database.read() as tx:
            return float(tx.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())

    def _ahead(self, ask: Callable[[], float]) -> float:
        """How far another clock is ahead of ours; the answer is taken for the middle of the time that it took."""
        ask()  # a connection is made before it is measured
        before = self._wall()
        said = ask()
        return said - (before + self._wall()) / 2

    def _address(self) -> Iterable[Finding]:
        remote = any(spec.remote for spec in self._catalogue.providers)
        fault = self._fault_of(self._callback_url) if self._callback_url else ""
        yield diagnosis.callback_address(self._callback_url, remote=remote, fault=fault, settings=self._settings)

    def _fault_of(self, url: str) -> str:
        """Why the liveness of the web process can't be read there; empty when it can."""
        # A proxy of the environment is for what lies outside of this machine.
        direct = {"no_proxy": urlsplit(url).hostname or ""} if diagnosis.is_loopback(url) else None
        try:
            answer = requests.get(
                f"{url.rstrip('/')}/healthz", timeout=_ADDRESS_TIMEOUT_S, allow_redirects=False, proxies=direct,
                verify=self._settings.public_ca_file or True,
            )  # fmt: skip
            return "" if answer.ok and answer.json().get("alive") is True else f"it answers {answer.status_code}"
        except requests.exceptions.JSONDecodeError:
            return "something else answers there"
        except requests.RequestException as error:
            return type(error).__name__

    def _host(self) -> Iterable[Finding]:
        where = self._settings.data_path.expanduser()
        room = shutil.disk_usage(where)
        yield diagnosis.disk(room.free, room.total, str(where))
        yield diagnosis.secret_key(bool(self._settings.secret_key), is_postgresql(self._database.engine))
