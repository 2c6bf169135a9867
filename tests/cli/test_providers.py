"""``taskflow providers check`` where only a server is named: a worker does the check, the command waits for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from taskflow.cli import connection
from taskflow.cli.client import Api
from taskflow.cli.problems import CommandError
from taskflow.cli.providers import WAIT_S, checked_by_a_worker
from taskflow.cli.render import Progress
from taskflow.cli.transport import Target
from taskflow.clock import ManualClock
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer, Request, error
from tests.cli.test_client import stack  # noqa: F401  fixture

WORKS = {"pending": False, "asked_at": "2026-01-01T00:00:00.000Z", "at": "2026-01-01T00:00:01.000Z", "ok": True,
         "says": "the token is accepted", "code": None}  # fmt: skip
REFUSED = {**WORKS, "ok": False, "says": "the token expired", "code": "provider_auth"}
PENDING = {**WORKS, "pending": True, "ok": None, "says": None, "code": None, "at": None}


def _provider(name: str, check: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "kind": "hetzner", "offers": [], "nodes": 0, "nodes_coming": 0, "nodes_max": 1,
            "closed": None, "check": check}  # fmt: skip


def _answers_at(server: FakeServer, look: int, **checks: dict[str, Any]) -> None:
    """The worker is done when it is looked for the ``look``-th time."""

    def on_request(request: Request) -> None:
        if len(server.asked("GET", "/api/providers")) >= look:
            server.providers = [_provider(name, check) for name, check in checks.items()]

    server.on_request = on_request


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command looks without a pause."""
    monkeypatch.setattr("taskflow.cli.providers._LOOK_S", 0.0)


@pytest.mark.usefixtures("hasty")
def test_a_worker_is_asked_and_waited_for(connected: FakeServer, invoke: Invoke) -> None:
    """The table and the exit code are those of a check on a host; what goes on is on standard error."""
    connected.providers = [_provider("cloud", PENDING), _provider("lab", PENDING)]
    _answers_at(connected, 2, cloud=REFUSED, lab=WORKS)
    done = invoke("providers", "check")
    assert done.exit_code == 1, done.output
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["STATE", "PROVIDER"], ["provider_auth", "cloud"], ["ok", "lab"],
    ]  # fmt: skip
    assert "the token expired" in done.stdout and "cloud, lab" in done.stderr
    (asked,) = connected.asked("POST", "/api/providers/check")
    assert asked.body == {} and asked.headers["Idempotency-Key"]


def test_one_is_checked_by_name_and_printed_as_json(connected: FakeServer, invoke: Invoke) -> None:
    """What was found within the last seconds is printed without waiting."""
    connected.providers = [_provider("cloud", REFUSED), _provider("lab", WORKS)]
    done = invoke("providers", "check", "lab", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "providers": [{"provider": "lab", "ok": True, "says": "the token is accepted", "code": None}]
    }
    assert connected.asked("POST", "/api/providers/check")[0].body == {"provider": "lab"}
    assert connected.asked("GET", "/api/providers") == []


def test_a_worker_that_never_comes_is_not_waited_for_without_end(server: FakeServer) -> None:
    """It says so, and where to look."""
    server.providers = [_provider("cloud", PENDING)]
    clock = ManualClock()
    began = clock.now()
    with pytest.raises(CommandError, match="no worker did that of cloud") as said:
        checked_by_a_worker(Api(Target(server.url, server.token)), None, Progress(err=True, plain=True), clock)
    assert "does a worker run" in str(said.value.advice)
    assert clock.now() - began <= WAIT_S + 1.0


def test_a_provider_that_there_is_not_ends_with_4(connected: FakeServer, invoke: Invoke) -> None:
    """As on a host."""
    connected.refuse["POST", "/check"] = (404, error("not_found", "no provider clud; there are: cloud"))
    done = invoke("providers", "check", "clud")
    assert done.exit_code == 4 and "there are: cloud" in done.stderr


@pytest.mark.parametrize(
    ("settings", "over_api"),
    [
        ({"url": "https://t.example"}, True),
        ({"url": "https://t.example", "database_url": "sqlite:///x.db"}, False),
        ({"url": "https://t.example", "redis_url": "redis://h"}, False),
        ({}, False),
    ],
)
def test_a_host_of_the_stores_works_on_them(settings: dict[str, Any], over_api: bool, tmp_path: Path) -> None:
    """Who names the stores may do more there than a token allows, also where a server is named as well."""
    assert connection.over_api(Settings(data_dir=str(tmp_path), **settings)) is over_api


def test_the_stack_that_serves_the_data_directory_is_worked_on_itself(
    stack: DataDir,  # noqa: F811
    server: FakeServer,
) -> None:
    """Also when its address is named: its stores are here. Another server is asked."""
    settings = Settings(data_dir=str(stack.root), url=f"{server.url}/")
    assert not connection.over_api(settings)
    assert connection.over_api(dataclasses.replace(settings, url="https://t.example"))
