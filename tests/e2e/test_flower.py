"""Flower shows what goes on in words that mean something, and only to who has its login."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.stack import Stack, assert_completed_once
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _alarms(stack: Stack, **query: str) -> dict[str, dict[str, Any]]:
    info = stack.info()
    answer = requests.get(
        info["flower_url"] + "/api/tasks", params=query, auth=(info["flower_user"], info["flower_password"]), timeout=10
    )
    answer.raise_for_status()
    found: dict[str, dict[str, Any]] = answer.json()
    return found


def test_the_alarms_of_a_run_are_found_by_step_by_task_and_by_run(stack: Stack, repository: Path) -> None:
    """With the step as their name, the ids in their arguments, and what the turn did as their result."""
    task_id = stack.submit(repository, ["sh", "-c", "sleep 2; echo hi > hello.txt"])
    other_id = stack.submit(repository, ["sh", "-c", "echo hi > other.txt"])
    assert_completed_once(stack, repository, task_id)
    stack.finished(other_id)
    run_id = stack.task(task_id)["run_id"]
    wait_until(
        lambda: any(
            "cleanup" in str(row["result"]) for row in _alarms(stack, search=f"kwargs:run_id={run_id}").values()
        ),
        "Flower has seen the last turn",
    )
    by_run = _alarms(stack, search=f"kwargs:run_id={run_id}")
    named = {uuid for uuid, row in by_run.items() if row["name"] != "rebuild"}  # nothing but the run was known then
    assert named == set(_alarms(stack, search=f"kwargs:task_id={task_id}"))
    assert not set(by_run) & set(_alarms(stack, search=f"kwargs:task_id={other_id}"))
    for row in by_run.values():
        assert row["name"].startswith("agent_task.") or row["name"] == "rebuild", row
        assert run_id in row["args"]
        assert f"'step': '{row['name']}'" in row["kwargs"]
        assert row["state"] == "SUCCESS"
        assert "'outcome':" in row["result"]
    running = _alarms(stack, taskname="agent_task.running", search=f"kwargs:run_id={run_id}")
    assert running
    assert set(running) <= set(by_run)
    assert {row["name"] for row in running.values()} == {"agent_task.running"}


@pytest.mark.parametrize("login", [None, ("taskflow", "wrong"), ("", "")])
def test_nobody_without_the_login_is_answered(stack: Stack, login: tuple[str, str] | None) -> None:
    """Neither pages nor the API, which could also stop workers."""
    url = stack.info()["flower_url"]
    for path in ("/", "/tasks", "/api/tasks", "/api/workers"):
        assert requests.get(url + path, auth=login, timeout=10).status_code == 401, path
    refused = requests.post(url + "/api/worker/shutdown/any", auth=login, timeout=10)
    assert refused.status_code == 401


def test_what_workers_did_is_in_the_metrics(stack: Stack, repository: Path) -> None:
    """Of every process of the host, through the web, with the installation's token."""
    stack.finished(stack.submit(repository, ["true"]))
    token = stack.command("metrics", "--token").strip()
    url = stack.info()["url"] + "/metrics"
    assert requests.get(url, timeout=10).status_code == 401
    text = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=10).text
    assert 'taskflow_steps_total{outcome="done",pipeline="agent_task",step="cleanup"}' in text
    assert 'taskflow_processes{role="worker"} 4.0' in text
    assert 'taskflow_http_requests_total{method="POST",route="/api/tasks",status="202"}' in text
