"""The same product in its other modes: the literal chain of Celery tasks, and real servers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskflow.broker import make_celery
from taskflow.settings import Settings
from tests.conftest import ValkeyDatabase
from tests.e2e.stack import Stack, assert_completed_once
from tests.support.servers import PostgresServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STEPS = (
    "node_selection", "node_provisioning", "node_agent_ready", "workspace_creation", "workspace_dispatch",
    "workspace_ready", "agent_session", "running", "cleanup",
)  # fmt: skip


@contextmanager
def celery_tasks(redis_url: str) -> Iterator[Counter[str]]:
    """Counts the Celery tasks that start meanwhile, by the name that Flower shows."""
    app = make_celery(Settings.from_env({"TASKFLOW_REDIS_URL": redis_url}))
    names: dict[str, str] = {}
    started: Counter[str] = Counter()
    ready = threading.Event()

    def on_event(event: dict[str, Any]) -> None:
        ready.set()  # any event, a worker's heartbeat too: from here on none is missed
        if event["type"] == "task-received":
            names[event["uuid"]] = event["name"]
        elif event["type"] == "task-started":
            started[names.get(event["uuid"], "unknown")] += 1

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": on_event})
        thread = threading.Thread(target=receiver.capture, daemon=True)
        thread.start()
        try:
            assert ready.wait(60), "no worker sends events"
            yield started
        finally:
            receiver.should_stop = True
            thread.join(10)


def test_a_turn_of_one_step_is_the_literal_chain(tmp_path: Path, repository: Path) -> None:
    """With TASKFLOW_TURN_MAX_STEPS=1 each step is a Celery task of its own, named ``<pipeline>.<step>``."""
    stack = Stack(tmp_path / "data", {"TASKFLOW_TURN_MAX_STEPS": "1"}).start()
    try:
        with celery_tasks(stack.info()["redis_url"]) as started:
            task = stack.submit(repository, ["sh", "-c", "echo hi > hello.txt"])
            assert_completed_once(stack, repository, task)
            walked = [event["step"] for event in stack.events(task) if event["kind"] == "step_entered"]
            assert ["node_selection", *walked] == [step for step in STEPS if step in ("node_selection", *walked)]
            wait_until(lambda: started["agent_task.cleanup"], "the last step's Celery task is seen")
            print(f"\nCeleryTasks: {dict(started)}")
            for step in ("node_selection", *walked):
                assert started[f"agent_task.{step}"] >= 1, f"no Celery task of its own for {step}"
    finally:
        stack.stop()
    assert stack.left_over() == []


def test_the_same_commands_use_real_servers(
    tmp_path: Path, repository: Path, valkey: ValkeyDatabase, postgres_server: PostgresServer
) -> None:
    """With TASKFLOW_REDIS_URL and TASKFLOW_DATABASE_URL set, no embedded server is started; a killed worker too."""
    url = postgres_server.create_database("taskflow_e2e")
    environ = {"TASKFLOW_REDIS_URL": valkey.url, "TASKFLOW_DATABASE_URL": url}
    stack = Stack(tmp_path / "data", environ).start()
    try:
        assert not (stack.data_dir / "valkey").exists()
        assert not (stack.data_dir / "taskflow.db").exists()
        task = stack.submit(repository, ["sh", "-c", "sleep 1; echo hi > hello.txt"])
        stack.at_step(task, "running")
        stack.kill("worker")
        assert_completed_once(stack, repository, task)
    finally:
        stack.stop()
    assert stack.left_over() == []


def test_a_warm_node_is_reused_and_its_time_out_destroys_it(tmp_path: Path, repository: Path) -> None:
    """The second task gets the node of the first; after the warm time the node is gone."""
    stack = Stack(tmp_path / "data", {"TASKFLOW_NODE_WARM_S": "4"}).start()
    try:
        tasks = [stack.submit(repository, ["sh", "-c", "echo 1 > one.txt"])]
        assert_completed_once(stack, repository, tasks[0])
        tasks.append(stack.submit(repository, ["sh", "-c", "echo 2 > two.txt"]))
        assert_completed_once(stack, repository, tasks[1])
        assert stack.task(tasks[0])["node_id"] == stack.task(tasks[1])["node_id"]
        wait_until(lambda: stack.api("GET", "/api/nodes")["nodes"] == [], "the warm node is gone", timeout_s=40)
        assert stack.agent_pids() == []
    finally:
        stack.stop()
    assert stack.left_over() == []
