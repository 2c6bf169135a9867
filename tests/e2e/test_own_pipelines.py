"""A pipeline of a user's own on the real stack: registered by the setting, started over HTTP, signalled from outside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ORDER = {"item": "lamp", "amount": 4900, "address": "Main Street 1"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the requests to the warehouse and the payment provider are put down."""
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, shop: Path) -> Iterator[Stack]:
    """A stack that knows the pipeline ``order``, started in the checkout with the settings of the example's README."""
    (line,) = re.findall(r"^export (.+)$", (ROOT / "examples" / "order" / "README.md").read_text(), re.MULTILINE)
    environ = {**dict(word.split("=", 1) for word in line.split()), "ORDER_SHOP_DIR": str(shop)}
    made = Stack(tmp_path_factory.mktemp("stack") / "data", environ, cwd=ROOT).start()
    yield made
    made.stop()
    assert made.left_over() == []


def _requests(shop: Path, run_id: str, effect: str) -> list[dict[str, Any]]:
    return [found for file in shop.glob(f"{run_id}.*.json") if effect in (found := json.loads(file.read_text()))]


def _shown(stack: Stack, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stack.api("GET", f"/api/runs/{run_id}")
    return found


def _at(stack: Stack, run_id: str, **fields: Any) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        run = _shown(stack, run_id)
        return run if all(run[name] == value for name, value in fields.items()) else None

    found = wait_until(look, f"{run_id} has {fields}", timeout_s=60)
    assert found is not None
    return found


def test_an_order_waits_for_its_payment_through_a_kill_and_is_shipped_once(stack: Stack, shop: Path) -> None:
    """The provider's callback comes while no worker is there; the order goes on when one is."""
    run_id = stack.api("POST", "/api/runs", json={"pipeline": "order", "subject": "order 7", "input": ORDER})["id"]
    _at(stack, run_id, status="waiting", awaiting="payment")
    (asked,) = _requests(shop, run_id, "pay")

    former = stack.kill("worker")
    answer = requests.post(
        asked["callback_url"], json={"status": "paid", "id": "pay-1"}, timeout=10,
        headers={"Authorization": f"Bearer {asked['callback_token']}"},
    )  # fmt: skip
    assert (answer.status_code, answer.json()) == (200, {"recorded": True})
    stack.restarted("worker", former)

    run = _at(stack, run_id, status="completed")
    (shipped,) = _requests(shop, run_id, "ship")
    assert shipped["address"] == "Main Street 1"
    assert run["result"]["parcel"]
    kinds = [event["kind"] for event in stack.api("GET", f"/api/runs/{run_id}/events")["events"]]
    assert (kinds[0], kinds[-1], kinds.count("run_finished")) == ("run_started", "run_finished", 1)


def _taskflow(stack: Stack, *argv: str, status: int = 0) -> str:
    info = stack.info()
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", *argv], capture_output=True, text=True, timeout=60, check=False,
        env={**stack.environ, "TASKFLOW_URL": info["url"], "TASKFLOW_TOKEN": info["token"]},
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_starts_signals_and_explains_runs(stack: Stack, shop: Path, tmp_path: Path) -> None:
    """With the ids of runs where it otherwise takes those of tasks."""
    given = tmp_path / "order.json"
    given.write_text(json.dumps({**ORDER, "quantity": 1}))
    start = ("start", "order", "--input", f"@{given}", "--input", "quantity=3", "--subject", "order 8")
    run_id = _taskflow(stack, *start).strip()
    _at(stack, run_id, awaiting="payment")
    assert _shown(stack, run_id)["input"]["quantity"] == 3
    assert "waits for the signal payment" in _taskflow(stack, "why", run_id)
    assert run_id in _taskflow(stack, "list", "--runs")
    assert _taskflow(stack, "signal", run_id, "payment", "--data", '{"status": "declined"}').strip() == "recorded"
    _at(stack, run_id, status="failed")
    assert "the payment was declined (payment_declined)" in _taskflow(stack, "show", run_id)
    again = _taskflow(stack, "rerun", run_id).split(":")[0]
    assert "cancel requested" in _taskflow(stack, "cancel", again, "--reason", "enough")
    assert _at(stack, again, status="cancelled")["error"]["message"] == "enough"


def test_what_the_command_line_can_not_start_is_said_by_name(stack: Stack) -> None:
    """Exit status 2, and the field."""
    info = stack.info()
    environ = {**stack.environ, "TASKFLOW_URL": info["url"], "TASKFLOW_TOKEN": info["token"]}
    for argv, says in (
        (("start", "order", "--input", "amount=much"), "input.amount"),
        (("start", "other"), "no pipeline other"),
        (("start", "order", "--input", "amount"), "neither NAME=VALUE nor @FILE"),
        (("signal", "run-1", "paid", "--data", "[1]"), "must be a JSON object"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "taskflow", *argv],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert says in done.stderr
