"""What ``taskflow sweeps`` and ``taskflow nodes audit`` show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer

SWEEP: dict[str, Any] = {
    "name": "delete_orphans", "state": "degraded", "interval_s": 60.0, "last_started_at": None,
    "last_success_at": "2026-01-01T00:00:00.000Z", "failures": 0, "last_result": {"done": 1, "failed": 1},
    "failing": [{"item": "cloud/17", "failures": 3, "error": {"code": "provider_invalid", "message": "it is protected"}}],
}  # fmt: skip
DIFFERENCE: dict[str, Any] = {
    "kind": "volume", "provider": "cloud", "label": "tf-1-disk", "server_id": "volumes/17", "node_id": None,
    "age_s": 7200.0, "price_per_hour": None, "says": "a volume of this installation that no server has", "mark": "1",
}  # fmt: skip


def _app(**service: Any) -> Any:
    @contextmanager
    def app() -> Iterator[Any]:
        yield SimpleNamespace(service=SimpleNamespace(**service))

    return app


def test_sweeps_are_shown_with_their_state_and_what_they_fail_at(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A human sees which item it is and why, without reading logs."""
    paused = {**SWEEP, "name": "prune", "state": "paused", "failing": []}
    health = SimpleNamespace(sweeps=lambda: [SWEEP, paused])
    monkeypatch.setattr("taskflow.cli.sweeps.stores_app", _app(health=health))
    shown = invoke("sweeps").stdout
    assert "degraded" in shown
    assert "done 1, failed 1" in shown
    assert "delete_orphans fails at cloud/17 (3 times): it is protected" in shown
    rows = json.loads(invoke("sweeps", "list", "--json").stdout)["sweeps"]
    assert rows == [{**SWEEP, "paused": False}, {**paused, "paused": True}]


def test_a_server_is_asked_for_sweeps_where_only_it_is_named(connected: FakeServer, invoke: Invoke) -> None:
    """At how many things one fails; at which is for who runs the installation, and it is said where they are told."""
    connected.sweeps = [{**SWEEP, "failing": 2}, {**SWEEP, "name": "prune", "state": "ok", "failing": 0}]
    shown = invoke("sweeps").stdout
    assert "degraded" in shown and "done 1, failed 1" in shown
    (line,) = [line for line in shown.splitlines() if "fails at" in line]
    assert line.startswith("delete_orphans fails at 2") and "on a host" in line
    connected.promises = [{"kind": "rerun_task", "task_id": "task-1", "attempts": 3, "message": "no\x1b[2J room"}]
    assert invoke("sweeps").stdout.splitlines()[-1] == "of yours: rerun_task task-1 (3 times): no room"
    assert json.loads(invoke("sweeps", "list", "--json").stdout)["promises"] == connected.promises
    rows = json.loads(invoke("sweeps", "list", "--json").stdout)["sweeps"]
    assert rows == [{**one, "paused": False} for one in connected.sweeps]


def test_a_price_that_nobody_knows_is_not_shown_as_nothing(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs something; how much is not said by the provider."""
    found = {"differences": [DIFFERENCE], "failed": {}}
    monkeypatch.setattr("taskflow.cli.nodes.database_app", _app(providers=SimpleNamespace(audit=lambda: found)))
    done = invoke("nodes", "audit")
    assert done.exit_code == 1
    assert " ? " in done.stdout.splitlines()[1]
