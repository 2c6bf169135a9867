"""Alive and ready."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from flask.testing import FlaskClient
from sqlalchemy import update
from structlog.testing import capture_logs

from taskflow.db.migrate import upgrade
from taskflow.db.models import Sweep
from taskflow.db.session import Database, make_engine
from taskflow.engine.control import Control
from taskflow.service import Service
from taskflow.service.workers import GONE_AFTER_S
from taskflow.settings import Settings
from taskflow.sweeps.ledger import run_sweep
from tests.web.world import World, build_service
from web import create_app

CHECKS = ("database", "migrations", "redis", "database_writes", "redis_writes", "worker", "beat")


def test_alive_asks_no_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose stores are all gone is alive: restarting it would not help."""
    monkeypatch.delattr(world.service, "health")
    monkeypatch.delattr(world.service, "accounts")
    assert world.call("GET", "/healthz", token=None).get_json() == {"alive": True}


@pytest.fixture
def migrated(
    tmp_path_factory: pytest.TempPathFactory, control: Control, settings: Settings, world: World
) -> Iterator[tuple[Service, FlaskClient]]:
    """A service on a migrated database, and its app."""
    database = Database(make_engine(f"sqlite:///{tmp_path_factory.mktemp('migrated') / 'taskflow.db'}"))
    upgrade(database.engine)
    service, _ = build_service(database, control, settings, world.clock)
    yield service, create_app(service, settings).test_client()
    database.dispose()


def _begin_sweep(service: Service, name: str) -> None:
    run_sweep(service.health._database, name, lambda memory: {}, service.now)


def test_ready_when_every_check_passes(migrated: tuple[Service, FlaskClient]) -> None:
    """Migrated database, answering Redis, a worker that lives and a sweep that beat sent: ready."""
    service, client = migrated
    service.workers.lives()
    _begin_sweep(service, "outbox")
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json() == {"ready": True, "checks": dict.fromkeys(CHECKS, "ok")}


def test_a_worker_or_beat_that_is_missing_is_named(migrated: tuple[Service, FlaskClient], world: World) -> None:
    """Whichever it is; what a worker does in beat's place is no sign of beat."""
    service, client = migrated

    def missing() -> list[str]:
        found = client.get("/readyz").get_json()
        checks = found["error"]["detail"]["checks"] if "error" in found else found["checks"]
        return [name for name, says in checks.items() if says != "ok"]

    assert missing() == ["worker", "beat"]
    service.workers.lives()
    _begin_sweep(service, "rescue")
    assert missing() == ["beat"]
    _begin_sweep(service, "outbox")
    assert missing() == []
    world.clock.advance(GONE_AFTER_S + 1)
    assert missing() == ["worker"]
    service.workers.lives()
    long_ago = update(Sweep).values(last_started_at=Sweep.last_started_at - 61)
    service.health._database.write(lambda tx: tx.execute(long_ago))
    assert missing() == ["beat"]
    _begin_sweep(service, "outbox")
    service.workers.goes()
    assert missing() == ["worker"]


def test_of_the_sweeps_that_are_paused_nothing_is_expected(migrated: tuple[Service, FlaskClient]) -> None:
    """Beat is told from the most frequent one that is not."""
    service, client = migrated
    service.workers.lives()
    service.health.pause_sweep("outbox", paused=True)
    _begin_sweep(service, "outbox")
    assert client.get("/readyz").status_code == 503
    _begin_sweep(service, "share_nodes")
    assert client.get("/readyz").status_code == 200


def test_not_ready_says_which_check_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 in the shape of errors: which checks fail for the caller, why for the log."""

    def away(*_args: object, **_kwargs: object) -> None:
        raise redis.ConnectionError("10.1.2.3 is away")

    monkeypatch.setattr(redis.Redis, "ping", away)
    with capture_logs() as logs:
        answer = world.call("GET", "/readyz", token=None)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (503, "not_ready")
    # The world's schema was made without migrations.
    assert error["detail"]["checks"] == {"database": "ok", "migrations": "failed", "redis": "failed"}
    assert "migrations, redis" in error["message"]
    assert "Retry-After" in answer.headers
    assert "10.1.2.3" not in answer.text
    assert "10.1.2.3" in str(logs)
