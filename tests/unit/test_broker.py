"""What a message says of its alarm, and what a worker says of its turn."""

from __future__ import annotations

import ast
import json
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from taskflow import celery
from taskflow.broker import ALARM_TASK, CeleryPublisher, make_celery
from taskflow.celery_settings import ALARM_QUEUE
from taskflow.engine.control import Alarm
from taskflow.engine.meter import Told
from taskflow.ids import RunId
from taskflow.settings import Settings


def test_a_message_names_task_run_and_step_and_carries_the_run_alone() -> None:
    """Flower shows and searches the first; a worker of any release understands the second."""
    app = make_celery(Settings())
    app.conf.update(broker_url="memory://", broker_transport_options={})
    CeleryPublisher(Settings(), app).publish(Alarm(RunId("run-1"), "7", 0.0, "agent_task.running", "task:task-1"))
    with app.connection() as connection:
        message: Any = connection.default_channel.basic_get(ALARM_QUEUE)
    args, kwargs, _ = json.loads(message.body)
    assert (args, kwargs) == (["run-1", "7"], {})
    assert message.headers["shadow"] == "agent_task.running"
    assert ast.literal_eval(message.headers["kwargsrepr"]) == {
        "task_id": "task-1", "run_id": "run-1", "step": "agent_task.running",
    }  # fmt: skip
    assert message.headers["ignore_result"] is True


def _turns(monkeypatch: pytest.MonkeyPatch, turn: Any) -> None:
    monkeypatch.setattr(celery.process, "get", lambda: SimpleNamespace(runner=SimpleNamespace(turn=turn)))


def _ring(run_id: str, generation: str) -> Any:
    return celery.app.tasks[ALARM_TASK](run_id, generation)


def test_a_turn_says_what_it_did_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step and its decision; of an alarm that was dropped, why."""

    def turn(run_id: str, generation: str, told: Told) -> str:
        if generation == "old":
            return "stale"
        told.step, told.outcome = "running", "waits"
        return "parked"

    _turns(monkeypatch, turn)
    assert _ring("run-1", "7") == {"step": "running", "outcome": "waits"}
    assert _ring("run-1", "old") == {"outcome": "stale"}


def test_a_turn_that_lost_its_store_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure of the task: the index rings again."""

    def turn(run_id: str, generation: str, told: Told) -> str:
        raise redis.ConnectionError("away")

    _turns(monkeypatch, turn)
    assert _ring("run-1", "7") == {"outcome": "broken_off"}
