"""RabbitMQ carries the hints: tasks complete, also when it is killed under them and away for a while."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kombu
import pytest

from tests.e2e.stack import Stack, assert_completed_once
from tests.support.rabbitmq import RabbitServer, rabbitmq_binary
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(rabbitmq_binary() is None, reason="no RabbitMQ here: apt-get install rabbitmq-server"),
]


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    """A node of RabbitMQ."""
    binary = rabbitmq_binary()
    assert binary is not None
    with RabbitServer(binary) as server:
        yield server


@pytest.fixture(scope="module")
def stack(rabbit: RabbitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose hints it carries; the control state is in the embedded server."""
    made = Stack(tmp_path_factory.mktemp("stack") / "data", {"TASKFLOW_BROKER_URL": rabbit.url}, flower=True).start()
    yield made
    made.stop()
    assert made.left_over() == []


def doctor(stack: Stack) -> dict[str, dict[str, str]]:
    """What ``taskflow doctor`` says, by check. It finds the stores by the stack, without their URLs."""
    environ = {name: value for name, value in stack.environ.items() if name != "TASKFLOW_BROKER_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", "doctor", "--json"], env=environ, capture_output=True, text=True, check=False
    )
    return {one["check"]: one for one in json.loads(done.stdout)["checks"]}


def test_a_task_completes_and_its_hints_go_through_rabbitmq(
    stack: Stack, rabbit: RabbitServer, repository: Path
) -> None:
    """The queue is there, and Redis holds none."""
    assert_completed_once(stack, repository, stack.submit(repository, ["sh", "-c", "echo 1 > one.txt"]))
    with kombu.Connection(rabbit.url) as connection, connection.channel() as channel:
        assert channel.queue_declare("alarm", passive=True).consumer_count == 1
    assert list(stack.redis().scan_iter("*celery*")) == []
    broker = doctor(stack)["broker"]
    assert (broker["state"], "hints wait" in broker["says"]) == ("ok", True), broker
    environ = {**stack.environ, "TASKFLOW_LOG_LEVEL": "ERROR"}
    ask = [sys.executable, "-m", "taskflow", "metrics"]
    text = subprocess.run(ask, env=environ, capture_output=True, text=True, check=True).stdout
    assert 'taskflow_store_up{store="broker"} 1.0' in text and 'taskflow_queue_depth{queue="sweep"}' in text


def test_a_broker_that_is_killed_costs_time_and_nothing_else(
    stack: Stack, rabbit: RabbitServer, repository: Path
) -> None:
    """A task is under way and another one is submitted while RabbitMQ is away: both complete once."""
    running = stack.submit(repository, ["sh", "-c", "sleep 2; echo 2 > two.txt"])
    stack.at_step(running, "running")
    rabbit.kill()
    began = time.monotonic()
    waiting = stack.submit(repository, ["sh", "-c", "echo 3 > three.txt"])
    print(f"\nsubmitted in {time.monotonic() - began:.2f} s while the broker was away")
    wait_until(lambda: doctor(stack)["broker"]["state"] == "error", "doctor says that the broker is away")
    assert stack.task(waiting)["status"] == "queued"
    rabbit.start()
    back = time.monotonic()
    for task in (running, waiting):
        assert_completed_once(stack, repository, task)
    print(f"both completed {time.monotonic() - back:.1f} s after it was back")
