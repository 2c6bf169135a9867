"""Redis is emptied under twenty tasks at different steps: all complete, nothing happens twice."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.stack import Stack, assert_completed_once
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TASKS = 20


def spread(stack: Stack, repository: Path) -> list[str]:
    """Twenty tasks, waited for until some run and some still wait."""
    tasks = [
        stack.submit(repository, ["sh", "-c", f"sleep {0.2 * (n % 5)}; echo {n} > file-{n}.txt"]) for n in range(TASKS)
    ]

    def is_spread() -> bool:
        steps = {stack.task(task)["step"] for task in tasks}
        return len(steps) >= 3

    wait_until(is_spread, "the tasks are at different steps", timeout_s=60)
    return tasks


def test_flushall_loses_no_task_and_doubles_no_effect(stack: Stack, repository: Path) -> None:
    """FLUSHALL on the embedded server."""
    tasks = spread(stack, repository)
    began = time.monotonic()
    stack.redis().flushall()
    for task in tasks:
        assert_completed_once(stack, repository, task)
    print(f"\nFLUSHALL under {TASKS} tasks: all completed {time.monotonic() - began:.1f} s later")


def test_a_server_killed_with_its_data_loses_no_task(stack: Stack, repository: Path) -> None:
    """The server is killed and its directory emptied; the supervisor starts it again."""
    tasks = spread(stack, repository)
    began = time.monotonic()
    pid = stack.pid("valkey")
    os.kill(pid, signal.SIGKILL)
    shutil.rmtree(stack.data_dir / "valkey", ignore_errors=True)
    for task in tasks:
        assert_completed_once(stack, repository, task)
    stack.restarted("valkey", pid)
    print(f"\nValkey killed and emptied under {TASKS} tasks: all completed {time.monotonic() - began:.1f} s later")
