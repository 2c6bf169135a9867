"""An app without a service builds its own: late, once per process, and never as the caller's fault."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from taskflow.errors import InfrastructureError, UsageError
from taskflow.service import SILENT, Service
from taskflow.settings import Settings
from tests.web.world import World
from web import create_app


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Settings], Any]], None]:
    """Puts a composition root in place of the real one; the logging of this process stays as it is."""

    def put(bootstrap: Callable[[Settings], Any]) -> None:
        module = types.ModuleType("taskflow.bootstrap")
        module.bootstrap = lambda settings, *, meter: bootstrap(settings)  # type: ignore[attr-defined]
        module.make_meter = lambda settings, role: SILENT  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "taskflow.bootstrap", module)

    monkeypatch.setattr("taskflow.logs.configure", lambda _settings: None)
    monkeypatch.setattr("atexit.register", lambda _function: None)
    return put


class _Built:
    def __init__(self, service: Service) -> None:
        self.service = service

    def close(self) -> None:
        """Nothing is open."""


def test_stores_are_connected_at_the_first_request_and_once_per_process(
    wire: Any, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making the app connects nothing, so it may be loaded before a fork; a forked process builds its own."""
    built: list[Settings] = []

    def bootstrap(given: Settings) -> _Built:
        built.append(given)
        return _Built(world.service)

    wire(bootstrap)
    client = create_app(settings=settings).test_client()
    assert client.get("/healthz").status_code == 200
    assert built == []
    headers = {"Authorization": f"Bearer {world.token}"}
    assert [client.get("/api/tasks", headers=headers).status_code for _ in range(2)] == [200, 200]
    assert built == [settings]
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert client.get("/api/tasks", headers=headers).status_code == 200
    assert built == [settings] * 2


@pytest.mark.parametrize("error", [UsageError("TASKFLOW_X is wrong"), InfrastructureError("the schema is old")])
def test_a_process_that_cannot_be_set_up_answers_503_and_tries_again(
    wire: Any, world: World, settings: Settings, error: Exception
) -> None:
    """A fault of the installation is never told to the caller as theirs, and its cure needs no restart."""
    faults = [error]

    def bootstrap(_settings: Settings) -> _Built:
        if faults:
            raise faults.pop()
        return _Built(world.service)

    wire(bootstrap)
    client = create_app(settings=settings).test_client()
    headers = {"Authorization": f"Bearer {world.token}"}
    assert [client.get("/api/tasks", headers=headers).status_code for _ in range(2)] == [503, 200]


def test_settings_come_from_the_environment(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under gunicorn the app is made without arguments; a wrong setting stops it at start, by name."""
    monkeypatch.setenv("TASKFLOW_LEASE_S", "soon")
    with pytest.raises(UsageError, match="TASKFLOW_LEASE_S"):
        create_app()
