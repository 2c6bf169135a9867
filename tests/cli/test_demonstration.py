"""``doctor --demonstrate``: each fault, on an installation of its own with real workers, and nothing left of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent.processes import processes_with_env
from taskflow.cli import demonstration
from taskflow.cli.demonstration import CASES, Case
from taskflow.cli.render import Progress
from tests.cli.conftest import Invoke


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_every_fault_is_gone_through_and_nothing_is_left(tmp_path: Path) -> None:
    """Killed, emptied, lost, repeated: the task goes on and has its effect once; directory and processes are gone."""
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", "doctor", "--demonstrate", "--json"],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=280, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert len(found["cases"]) == len(CASES)
    assert [(case["effects"], case["held"]) for case in found["cases"]] == [(1, True)] * len(CASES)
    assert list(tmp_path.iterdir()) == []
    assert processes_with_env("TMPDIR", str(tmp_path)) == []


@pytest.mark.parametrize(("took_s", "effects", "code"), [(5.2, 1, 0), (None, 0, 1), (5.2, 2, 1)])
def test_what_was_not_held_is_said_and_is_exit_code_1(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, took_s: float | None, effects: int, code: int
) -> None:
    """A task that did not go on, or an effect that came twice."""

    @contextlib.contextmanager
    def nowhere(_progress: Progress) -> Iterator[None]:
        yield None

    case = Case("a worker was killed", "taken over", took_s, 6.25, effects)
    monkeypatch.setattr(demonstration, "scratch", nowhere)
    monkeypatch.setattr(demonstration, "CASES", {"a worker is killed": lambda place: case})
    done = invoke("doctor", "--demonstrate")
    assert done.exit_code == code
    assert ("NOT as promised" in done.stdout) is (code == 1)
    assert ("not at all" if took_s is None else "5.2 s") in done.stdout
    found = json.loads(invoke("doctor", "--demonstrate", "--json").stdout)
    assert (found["held"], found["cases"][0]["effects"]) == (code == 0, effects)
