"""The whole stack with more than fits: a hundred times its slots of submissions, then a disk that is full."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.e2e.stack import Stack, assert_completed_once, make_repository
from tests.overload.disk import FullDisk
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

OPEN_MAX, SLOTS, FACTOR = 6, 4, 100


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that takes six tasks at a time."""
    environ = {"TASKFLOW_OWNER_OPEN_TASKS_MAX": str(OPEN_MAX), "TASKFLOW_TOKEN_REQUEST_RATE": "0"}
    made = Stack(tmp_path_factory.mktemp("overload") / "data", environ).start()
    yield made
    made.stop()
    assert made.left_over() == []


def test_a_hundred_times_too_much_and_the_accepted_complete(stack: Stack, tmp_path: Path) -> None:
    """Four hundred submissions at four slots: what is accepted ends once, what is refused is nowhere."""
    repository = make_repository(tmp_path / "repository")
    info = stack.info()
    headers = {"Authorization": f"Bearer {info['token']}"}
    spec = {"repository": str(repository), "command": ["sh", "-c", "echo $TASKFLOW_TASK_ID > out"]}

    def submit(_number: int) -> requests.Response:
        return requests.post(f"{info['url']}/api/tasks", json=spec, headers=headers, timeout=60)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(submit, range(FACTOR * SLOTS)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {202, 429, 503} and statuses[202] >= OPEN_MAX, statuses
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code != 202)
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {task["id"] for task in stack.api("GET", "/api/tasks?limit=200")["tasks"]} == accepted
    for task_id in accepted:
        assert_completed_once(stack, repository, task_id)
    print(f"\n{FACTOR * SLOTS} submissions: {dict(statuses)}")


def processes_that_write(stack: Stack) -> list[int]:
    """Supervisor, web, worker, beat, node host and agents, with their children but for the tasks' own commands.

    Not Valkey: the signal that goes with this limit, which a full disk does not send, would end it.
    """
    assert stack.supervisor is not None
    found = [stack.supervisor.pid, stack.pid("nodehost"), *stack.agent_pids()]
    for name in ("web", "worker", "beat"):
        leader = psutil.Process(stack.pid(name))
        found += [leader.pid, *(child.pid for child in leader.children(recursive=True))]
    return found


def running(stack: Stack, word: str) -> list[int]:
    """Processes of the stack with ``word`` in their command line."""
    found = []
    for pid in stack.left_over():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [pid] if word in " ".join(psutil.Process(pid).cmdline()) else []
    return found


def not_ready(url: str) -> Any:
    """What readiness says when it is not, else None."""
    answer = requests.get(url + "/readyz", timeout=30)
    return answer.json() if answer.status_code == 503 else None


def test_a_full_disk_under_everything_is_survived(stack: Stack, tmp_path: Path) -> None:
    """Nothing can be written for a while: said with 503, and then the task under way ends once, without a restart."""
    repository, go = make_repository(tmp_path / "repository"), tmp_path / "go"
    task_id = stack.submit(repository, ["sh", "-c", f"until [ -e {go} ]; do sleep 0.1; done; echo done > out"])
    stack.at_step(task_id, "running")
    info = stack.info()
    headers = {"Authorization": f"Bearer {info['token']}"}
    spec = {"repository": str(repository), "command": ["true"]}
    before = {name: stack.pid(name) for name in ("web", "worker", "nodehost")}

    def submit() -> requests.Response:
        return requests.post(f"{info['url']}/api/tasks", json=spec, headers=headers, timeout=60)

    with FullDisk() as disk:
        disk.fill(processes_that_write(stack))
        answer = submit()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "database_files"), error
        assert error["advice"] and error["detail"] == {"store": "database"} and "Retry-After" in answer.headers
        # One answer: each web process looks for itself, and one may have looked while there was room.
        answer = wait_until(lambda: not_ready(info["url"]), "readiness says so")
        checks = answer["error"]["detail"]["checks"]
        assert checks["database_writes"] == "failed" and checks["database"] == "ok"
        go.touch()  # its command ends while nobody can write that down
        wait_until(lambda: not running(stack, str(go)), "the command has ended")
        assert submit().status_code == 503
        assert (
            requests.get(f"{info['url']}/api/tasks/{task_id}", headers=headers, timeout=30).json()["step"] == "running"
        )
    wait_until(lambda: requests.get(info["url"] + "/readyz", timeout=30).ok, "ready again")
    assert_completed_once(stack, repository, task_id)
    assert {name: stack.pid(name) for name in before} == before, "no restart was needed"
    assert stack.finished(submit().json()["id"])["status"] == "completed"
