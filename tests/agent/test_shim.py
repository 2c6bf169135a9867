"""The shim by itself, without the agent that starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from taskflow.agent.shim import request_stop
from tests.support.waiting import wait_until


def _argv(session: Path) -> list[str]:
    return [sys.executable, "-m", "taskflow.agent.shim", str(session)]


def _order(cwd: Path, evidence: Path) -> str:
    """A command that adds a line to ``evidence``."""
    return json.dumps(
        {
            "command": ["sh", "-c", f'echo ran >> "{evidence}"'], "cwd": str(cwd), "env": dict(os.environ),
            "secrets": [], "time_limit_s": 30, "log_limit_bytes": 1000, "lifeline": None,
        }
    )  # fmt: skip


def test_a_session_that_was_begun_is_never_begun_again(tmp_path: Path) -> None:
    """Whoever asks again, an agent that lost its memory too: the second shim says so and starts nothing."""
    evidence, session = tmp_path / "evidence", tmp_path / "session"
    session.mkdir()
    said = [
        subprocess.run(
            _argv(session), input=_order(tmp_path, evidence), capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for _ in range(2)
    ]
    assert said == ["ok\n", "taken\n"]
    assert evidence.read_text() == "ran\n"


def test_a_shim_whose_agent_is_killed_while_it_starts_runs_its_command(tmp_path: Path) -> None:
    """It has its order and can't say ``ok`` to anybody: the command runs all the same, once, and leaves its report."""
    evidence, session = tmp_path / "evidence", tmp_path / "session"
    session.mkdir()
    read, write = os.pipe()
    shim = subprocess.Popen(_argv(session), stdin=subprocess.PIPE, stdout=write, text=True)
    os.close(write)
    os.close(read)  # nobody will read its answer, as when the agent is gone
    shim.communicate(_order(tmp_path, evidence), timeout=60)
    assert shim.returncode == 0
    assert evidence.read_text() == "ran\n"
    report = json.loads((session / "exit.json").read_text())
    assert (report["outcome"], report["exit_code"]) == ("exited", 0)


def test_a_session_that_was_cut_off_says_so_whatever_became_of_its_children(tmp_path: Path) -> None:
    """A child that the kernel ended for lack of memory, long before, is not why the session ended: by the error it is known
    that its node was lost, and that it may run again."""
    group, session, begun = tmp_path / "group", tmp_path / "session", tmp_path / "begun"
    for directory in (group, session):
        directory.mkdir()
    (group / "cgroup.procs").touch()
    (group / "memory.events").write_text("oom_kill 0\n")
    order: dict[str, Any] = json.loads(_order(tmp_path, begun))
    order["command"] = ["sh", "-c", f'echo "oom_kill 1" > "{group}/memory.events"; echo > "{begun}"; exec sleep 1000']
    order["confinement"] = {"cgroup": str(group), "memory_mb": 64}
    shim = subprocess.Popen(_argv(session), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert shim.stdin is not None
    with shim.stdin:
        shim.stdin.write(json.dumps(order))
    wait_until(begun.exists, "the command runs")
    error = {"code": "cut_off", "message": "nobody was reached", "phase": None}
    request_stop(session, 1.0, lost=error)
    assert shim.wait(60) == 0
    report = json.loads((session / "exit.json").read_text())
    assert (report["outcome"], report["error"]) == ("lost", error)
