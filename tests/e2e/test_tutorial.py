"""Somebody new types the tutorial: every command of docs/tutorial/first-task.md works, and says what the page says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from taskflow.agent.processes import processes_with_env
from tests.support.celery_processes import clean_environ
from tests.support.house import ROOT
from tests.support.processes import die_with_parent, end_process
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PAGE = ROOT / "docs" / "tutorial" / "first-task.md"
_BLOCK = re.compile(r"^```(?P<kind>[a-z]+[a-z ]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


class Terminal:
    """A shell that keeps its directory and variables from one block to the next, and ends at the first failure."""

    def __init__(self, directory: Path) -> None:
        environ = clean_environ(HOME=str(directory), TASKFLOW_PORT="0", TASKFLOW_FLOWER_PORT="0")
        environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
        self._environ, self._directory, self._before = environ, directory, ""
        self.background: list[subprocess.Popen[bytes]] = []

    def type(self, text: str) -> str:
        """Run a block; everything it printed. Fails with that when a command of it fails."""
        state = self._directory / "state"
        script = f"{self._before}\nset -eu\n{text}\ndeclare -p > {state}\npwd > {state}.pwd"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._directory, env=self._environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        # Read-only variables of bash itself can't be set again; that is no error of the block.
        self._before = f"source {state} 2>/dev/null || true; cd {Path(f'{state}.pwd').read_text().strip()}"
        return done.stdout

    def leave_running(self, text: str) -> None:
        """Run a block in a second terminal of the same directory and settings."""
        with (self._directory / "second.log").open("ab") as log:
            self.background.append(
                subprocess.Popen(
                    ["bash", "-c", f"{self._before}\nexec {text}"], cwd=self._directory, env=self._environ, stdout=log,
                    stderr=log, preexec_fn=die_with_parent(signal.SIGTERM),
                )
            )  # fmt: skip


def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    """Block by block, in one shell; what stands in a block of text is found in what the block before it printed."""
    blocks = [(found["kind"], found["text"]) for found in _BLOCK.finditer(PAGE.read_text())]
    assert {kind for kind, _ in blocks} == {"console", "sh", "sh background", "text"}
    assert [text for kind, text in blocks if kind == "console"] == ["make install\n. .venv/bin/activate\n"]
    terminal, printed, data = Terminal(tmp_path), "", tmp_path / "first-task" / "data"
    try:
        for kind, text in blocks:
            if kind == "sh background":
                terminal.leave_running(text)
                wait_until((data / "stack.json").exists, "the stack serves", timeout_s=120)
            elif kind == "sh":
                printed = terminal.type(text)
            elif kind == "text":
                assert [line for line in text.splitlines() if line not in printed] == [], printed
        rows = json.loads((data / "run" / "processes.json").read_text())["processes"]
        assert [row["restarts"] for row in rows if row["name"] == "worker"] == [1]
    finally:
        for process in terminal.background:
            end_process(process, signal.SIGINT, timeout_s=90)
    assert [pid for pid in processes_with_env("TASKFLOW_DATA_DIR", str(data)) if pid != os.getpid()] == []
