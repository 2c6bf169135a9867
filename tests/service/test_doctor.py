"""What the doctor says: for each check what is wrong, what that costs and for how long, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import redis
import requests
from celery import Celery

from taskflow.broker import ALARM_TASK, Application, CeleryPublisher, make_celery
from taskflow.celery_settings import celery_settings
from taskflow.embedding import install
from taskflow.errors import InfrastructureError
from taskflow.service import diagnosis, versions
from taskflow.service.diagnosis import Finding
from taskflow.service.doctor import Doctor
from taskflow.service.outages import STORES, explained
from taskflow.settings import Settings
from tests.support.servers import ValkeyServer
from tests.support.world import World

S = Settings()
GIB = 1024**3
EMULATED = {"broker_transport_options": {"ack_emulation": True, "visibility_timeout": 10}}

REDIS = dataclasses.replace(S, redis_url="redis://127.0.0.1:1/0")
NO_BROKER = Application(Celery("none", broker="memory://", set_as_current=False))
RABBIT = dataclasses.replace(S, broker_url="amqp://rabbit.example/taskflow")


def broker(found: Finding) -> Finding:
    """The same of the broker's own Redis."""
    return diagnosis.of_broker(found, S)


#: What there is -> how it is judged: check, state, what is at risk, for how long at most.
JUDGED: list[tuple[Callable[[], Finding], str, str, float | None]] = [
    (lambda: diagnosis.eviction({"maxmemory_policy": "noeviction"}, S), "ok", "none", None),
    (lambda: diagnosis.eviction({"maxmemory_policy": "allkeys-lru", "maxmemory": 1}, S), "error", "delayed", 6.25),
    (lambda: diagnosis.memory_room({"maxmemory": 0, "used_memory": 5}), "ok", "none", None),
    (lambda: diagnosis.memory_room({"maxmemory": 100, "used_memory": 89}), "ok", "none", None),
    (lambda: diagnosis.memory_room({"maxmemory": 100, "used_memory": 90}), "warning", "delayed", None),
    (lambda: diagnosis.persistence({"aof_enabled": 1}, S), "ok", "none", None),
    (lambda: diagnosis.persistence({"aof_enabled": 0}, S), "warning", "delayed", 6.25),
    (lambda: diagnosis.persistence({"aof_enabled": 1, "aof_last_write_status": "err"}, S), "error", "delayed", None),
    (lambda: diagnosis.acknowledgement(False, S), "ok", "none", None),
    (lambda: diagnosis.acknowledgement(True, S), "warning", "doubled", None),
    (lambda: diagnosis.visibility(EMULATED, "redis", S), "warning", "doubled", None),
    (lambda: diagnosis.visibility(EMULATED, "amqp", S), "ok", "none", None),
    (lambda: diagnosis.visibility({}, "redis", S), "ok", "none", None),
    (lambda: diagnosis.patience(celery_settings(S), "redis"), "ok", "none", None),
    (lambda: diagnosis.patience(celery_settings(RABBIT), "amqp"), "ok", "none", None),
    (lambda: diagnosis.patience({}, "redis"), "warning", "delayed", None),
    (lambda: diagnosis.patience({}, "amqp"), "warning", "delayed", None),
    (lambda: diagnosis.patience({**celery_settings(S), "broker_connection_max_retries": 100}, "redis"), "warning",
     "delayed", None),
    (lambda: diagnosis.patience({**celery_settings(S), "worker_eta_task_limit": 9}, "redis"), "warning", "delayed", None),
    (lambda: broker(diagnosis.eviction({"maxmemory_policy": "allkeys-lru"}, S)), "warning", "delayed", 1.25),
    (lambda: broker(diagnosis.memory_room({"maxmemory": 100, "used_memory": 90})), "warning", "delayed", None),
    (lambda: broker(diagnosis.persistence({"aof_enabled": 0}, S)), "ok", "none", None),
    (lambda: broker(diagnosis.persistence({"aof_enabled": 1, "aof_last_write_status": "err"}, S)), "error",
     "delayed", None),
    (lambda: diagnosis.skew("of Redis", 0.4, S), "ok", "none", None),
    (lambda: diagnosis.skew("of Redis", -3.0, S), "warning", "delayed", 4.25),
    (lambda: diagnosis.skew("of Redis", 600.0, S), "error", "delayed", 16.25),
    (lambda: diagnosis.beat(3.0, 29.0, S), "ok", "none", None),
    (lambda: diagnosis.beat(3.0, 31.0, S), "warning", "delayed", None),
    (lambda: diagnosis.beat(3.0, None, S), "warning", "delayed", None),
    (lambda: diagnosis.workers(44.0, S), "ok", "none", None),
    (lambda: diagnosis.workers(46.0, S), "error", "delayed", None),
    (lambda: diagnosis.workers(None, S), "error", "delayed", None),
    (lambda: diagnosis.alarms(0, 9.0, S), "ok", "none", None),
    (lambda: diagnosis.alarms(3, 99.0, S), "warning", "delayed", None),
    (lambda: diagnosis.callback_address("http://127.0.0.1:1", remote=False, fault="", settings=S), "ok", "none", None),
    (lambda: diagnosis.callback_address("http://127.0.0.1:1", remote=True, fault="", settings=S), "error", "delayed", 900),
    (lambda: diagnosis.callback_address("http://h", remote=True, fault="refused", settings=S), "warning", "delayed", 1800),
    (lambda: diagnosis.disk(2 * GIB, 9 * GIB, "/d"), "ok", "none", None),
    (lambda: diagnosis.disk(GIB, 9 * GIB, "/d"), "warning", "delayed", None),
    (lambda: diagnosis.disk(1, 9 * GIB, "/d"), "error", "delayed", None),
    (lambda: diagnosis.durability("fsync", "on"), "ok", "none", None),
    (lambda: diagnosis.durability("synchronous_commit", "off"), "error", "lost", 1.0),
    (lambda: diagnosis.durability("synchronous", "0"), "error", "lost", None),
    (lambda: diagnosis.secret_key(True, True), "ok", "none", None),
    (lambda: diagnosis.secret_key(False, False), "ok", "none", None),
    (lambda: diagnosis.secret_key(False, True), "warning", "lost", None),
]  # fmt: skip


@pytest.mark.parametrize(("judge", "state", "risk", "at_most_s"), JUDGED)
def test_each_fact_is_judged(judge: Callable[[], Finding], state: str, risk: str, at_most_s: float | None) -> None:
    """Just inside and just outside of what is well; whoever is warned reads what it costs and what to do."""
    found = judge()
    assert (found.state, found.risk, found.at_most_s) == (state, risk, at_most_s)
    assert found.says
    assert bool(found.consequence) == bool(found.advice) == (state != "ok")


def make_doctor(world: World, **changes: Any) -> Doctor:
    """The doctor of this world."""
    return Doctor(
        world.app.database, world.app.control, world.service.health, world.app.tools.catalogue, world.settings,
        **{"celery_app": NO_BROKER, "callback_url": "http://127.0.0.1:1", "wall": world.app.control.now, **changes},
    )  # fmt: skip


def said(doctor: Doctor) -> dict[str, dict[str, Any]]:
    """The findings by check; each check is there once."""
    found = doctor.examine()
    by_check = {one["check"]: one for one in found}
    assert len(by_check) == len(found)
    return by_check


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The web process answers where nodes report to."""
    answer = requests.Response()
    answer.status_code, answer._content = 200, b'{"alive": true}'
    monkeypatch.setattr("requests.get", lambda url, **_: answer)


@pytest.mark.usefixtures("answering")
def test_an_installation_that_works_has_nothing_to_fear(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All checks are ok where stores, sweeps and the callback address are."""
    info = {"maxmemory_policy": "noeviction", "aof_enabled": 1, "redis_version": "7.0.15", "run_id": "one"}
    monkeypatch.setattr(world.redis, "info", lambda section="": info)
    monkeypatch.setattr("taskflow.broker.Application.redis_info", lambda _app: info)
    for name in world.settings.sweep_intervals():
        world.app.sweep(name)
    found = said(make_doctor(world, celery_app=Application(make_celery(REDIS))))
    mine = ("redis eviction", "redis persistence", "database durability", "workers", "beat", "alarms", "clock of Redis",
            "acks_late", "visibility_timeout", "broker patience", "callback address", "secret key", "versions")  # fmt: skip
    assert {found[name]["state"] for name in mine} == {"ok"}


@pytest.mark.usefixtures("answering")
def test_time_that_passes_without_workers_is_seen(world: World) -> None:
    """No sweep for an hour: neither beat nor a worker; a task whose alarm is overdue stands still, and is counted."""
    for name in world.settings.sweep_intervals():
        world.app.sweep(name)
    world.submit()
    world.travel.shift(3600.0)
    found = said(make_doctor(world))
    assert found["workers"]["state"] == "error"
    assert found["beat"]["state"] == "warning"
    assert found["alarms"]["says"].startswith("1 are overdue")


@pytest.mark.parametrize(
    "check",
    ["broker", "worker", "beat", "provider hetzner", "pipeline orders", *STORES,
     *(f"sweep {name}" for name in S.sweep_intervals())],
)  # fmt: skip
def test_whatever_does_not_work_is_said_with_what_it_costs_and_what_to_do(check: str) -> None:
    """Each check of the stores, processes, scheduled jobs, providers and pipelines; one that is well costs nothing."""
    bad = explained({"check": check, "state": "warning", "says": "it does not work"}, ())
    assert bad.risk == "delayed" and bad.consequence and bad.advice
    good = explained({"check": check, "state": "ok", "says": "ok"}, ())
    assert (good.risk, good.consequence, good.advice) == ("none", "", "")


@pytest.mark.usefixtures("answering")
def test_no_weakness_is_said_without_what_it_costs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs, the broker is away and a job is paused: every line that is not ok is explained."""

    def away() -> int:
        raise ConnectionRefusedError("away")

    monkeypatch.setattr(world.redis, "info", lambda section="": {"maxmemory_policy": "noeviction"})
    monkeypatch.setattr(world.service.health, "_backlog", away)
    world.service.health.pause_sweep("prune", paused=True)
    found = said(make_doctor(world))
    bad = {name: one for name, one in found.items() if one["state"] != "ok"}
    assert {"broker", "worker", "sweep prune", "sweep rescue", "redis persistence"} <= set(bad)
    assert [name for name, one in bad.items() if not (one["consequence"] and one["advice"])] == []
    assert bad["sweep prune"]["advice"].endswith("taskflow sweeps resume prune")


def application(**settings: Any) -> Celery:
    """An application of somebody's own, with taskflow installed on it."""
    app = Celery("bookshop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.update(settings)
    install(app, S)
    return app


@pytest.mark.usefixtures("answering")
def test_an_application_of_ones_own_is_judged_by_what_it_is_set_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its visibility timeout, its patience with the broker; and how its alarms are acknowledged, not its other tasks."""
    monkeypatch.setattr("taskflow.broker.Application.redis_info", lambda _app: None)
    app = application(task_acks_late=True, broker_transport_options={"visibility_timeout": 5})
    found = said(make_doctor(world, celery_app=Application(app)))
    assert found["acks_late"]["state"] == "ok"
    assert (found["visibility_timeout"]["state"], found["visibility_timeout"]["says"][:3]) == ("warning", "5 s")
    for name in ("broker_connection_max_retries", "socket_timeout"):
        assert name in found["broker patience"]["says"] and name in found["broker patience"]["advice"]
    app.tasks[ALARM_TASK].acks_late = True
    app.conf.update(
        broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 30}, broker_connection_max_retries=None
    )
    found = said(make_doctor(world, celery_app=Application(app)))
    states = [found[name]["state"] for name in ("acks_late", "visibility_timeout", "broker patience")]
    assert states == ["warning", "ok", "ok"]


@pytest.mark.usefixtures("answering")
def test_the_redis_of_the_broker_is_judged_when_it_is_another_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it holds: hints, which are rung again. One that is the control store's is not judged twice."""
    control = {"maxmemory_policy": "noeviction", "aof_enabled": 1, "redis_version": "7.0.15", "run_id": "one"}
    monkeypatch.setattr(world.redis, "info", lambda section="": control)
    theirs = {**control, "maxmemory_policy": "allkeys-lru", "run_id": "two", "valkey_version": "9.1.2"}
    monkeypatch.setattr("taskflow.broker.Application.redis_info", lambda _app: theirs)
    found = said(make_doctor(world))
    assert (found["redis eviction"]["state"], found["broker redis eviction"]["state"]) == ("ok", "warning")
    assert found["broker redis eviction"]["at_most_s"] == 1.25
    assert "Redis 7.0.15" in found["versions"]["says"] and "Valkey of the broker 9.1.2" in found["versions"]["says"]
    theirs["run_id"] = "one"
    found = said(make_doctor(world))
    assert not [name for name in found if name.startswith("broker redis")]
    assert "of the broker" not in found["versions"]["says"]


@pytest.mark.integration
def test_the_broker_is_asked_for_what_it_is() -> None:
    """Over Celery's own connection, whatever its URL and options are; a broker that is no Redis is not asked."""
    with ValkeyServer() as server:
        info = CeleryPublisher(dataclasses.replace(S, broker_url=server.url)).application().redis_info()
        assert info is not None and versions.of_server(info)[0] == "Valkey"
        assert (
            info["run_id"] == redis.Redis.from_url(server.url).info("server")["run_id"] and "maxmemory_policy" in info
        )
    assert CeleryPublisher(RABBIT).application().redis_info() is None


#: Name, version, whether the broker is a Redis -> what is at risk; None: nothing is known of it.
VERSIONS = [
    ("Celery", "5.7.0", True, "delayed"), ("Celery", "5.7.0", False, None), ("Celery", "5.6.3", True, None),
    ("Celery", "5.7.1", True, None), ("SQLite", "3.40.1", True, "lost"), ("SQLite", "3.44.5", True, "lost"),
    ("SQLite", "3.44.6", True, None), ("SQLite", "3.50.6", True, "lost"), ("SQLite", "3.50.7", True, None),
    ("SQLite", "3.51.2", True, "lost"), ("SQLite", "3.51.3", True, None), ("PostgreSQL", "14.3", True, "lost"),
    ("PostgreSQL", "14.4 (Debian 14.4-1)", True, None), ("PostgreSQL", "18.6", True, None),
    ("Redis", "4.0.14", True, "delayed"), ("Redis of the broker", "4.0.14", True, "delayed"),
    ("Redis", "5.0.0", True, None), ("Redis", "unknown", True, None), ("Valkey", "9.1.2", True, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "version", "redis_broker", "risk"), VERSIONS)
def test_versions_that_are_known_to_be_bad_are_named_with_why(
    name: str, version: str, redis_broker: bool, risk: str | None
) -> None:
    """Up to the one that mended it; all versions are said, good or bad."""
    every, *bad = versions.judged({name: version}, redis_broker=redis_broker)
    assert (every.state, every.says) == ("ok", f"{name} {version}")
    assert [(one.check, one.risk) for one in bad] == ([] if risk is None else [(f"version of {name}", risk)])
    assert all(one.state != "ok" and one.consequence and one.advice for one in bad)


@pytest.mark.usefixtures("answering")
def test_a_clock_that_is_ahead_is_named_with_its_distance(world: World) -> None:
    """Of whom, how far, and that NTP helps."""
    found = said(make_doctor(world, wall=lambda: world.app.control.now() - 90.0))["clock of Redis"]
    assert (found["state"], found["says"].split()[0][:2]) == ("error", "90")
    assert "NTP" in found["advice"]


def test_an_address_that_nobody_answers_at_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, or something else that listens there."""
    assert said(make_doctor(world))["callback address"]["state"] == "warning"
    answer = requests.Response()
    answer.status_code, answer._content = 200, b"<html>"
    monkeypatch.setattr("requests.get", lambda url, **_: answer)
    assert "something else" in said(make_doctor(world))["callback address"]["says"]


@pytest.mark.usefixtures("answering")
def test_what_can_not_be_looked_at_keeps_no_other_from_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """INFO may be refused, a statement may fail; with Redis away the rest is still examined."""
    doctor = make_doctor(world)
    assert said(doctor)["redis settings"]["state"] == "warning"

    def fails() -> Any:
        raise InfrastructureError("it broke")

    monkeypatch.setattr(doctor, "_durability", fails)
    assert "it broke" in said(doctor)["database durability"]["says"]

    def away() -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(world.redis, "ping", away)
    found = said(make_doctor(world))
    assert (found["redis"]["state"], found["redis"]["risk"]) == ("error", "delayed")
    assert "workers" not in found
    assert found["database durability"]["state"] == "ok"
