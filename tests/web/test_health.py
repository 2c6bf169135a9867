"""Alive and ready."""

from __future__ import annotations

import pytest
import redis
from structlog.testing import capture_logs

from taskflow.db.migrate import upgrade
from taskflow.db.session import Database, make_engine
from taskflow.engine.control import Control
from taskflow.settings import Settings
from tests.web.world import World, build_service
from web import create_app

CHECKS = ("database", "migrations", "redis", "database_writes", "redis_writes")


def test_alive_asks_no_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose stores are all gone is alive: restarting it would not help."""
    monkeypatch.delattr(world.service, "health")
    monkeypatch.delattr(world.service, "accounts")
    assert world.call("GET", "/healthz", token=None).get_json() == {"alive": True}


def test_ready_when_every_check_passes(
    tmp_path_factory: pytest.TempPathFactory, control: Control, settings: Settings, world: World
) -> None:
    """Migrated database and answering Redis: ready."""
    engine = make_engine(f"sqlite:///{tmp_path_factory.mktemp('migrated') / 'taskflow.db'}")
    upgrade(engine)
    service, _ = build_service(Database(engine), control, settings, world.clock)
    answer = create_app(service, settings).test_client().get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json() == {"ready": True, "checks": dict.fromkeys(CHECKS, "ok")}
    engine.dispose()


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
