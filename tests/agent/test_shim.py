"""The shim by itself, without the agent that starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_a_shim_whose_agent_is_killed_while_it_starts_runs_its_command(tmp_path: Path) -> None:
    """It has its order and can't say ``ok`` to anybody: the command runs all the same, once, and leaves its report."""
    evidence, session = tmp_path / "evidence", tmp_path / "session"
    session.mkdir()
    order = {
        "command": ["sh", "-c", f'echo ran >> "{evidence}"'], "cwd": str(tmp_path), "env": dict(os.environ),
        "secrets": [], "time_limit_s": 30, "log_limit_bytes": 1000, "lifeline": None,
    }  # fmt: skip
    read, write = os.pipe()
    shim = subprocess.Popen(
        [sys.executable, "-m", "taskflow.agent.shim", str(session)], stdin=subprocess.PIPE, stdout=write, text=True
    )
    os.close(write)
    os.close(read)  # nobody will read its answer, as when the agent is gone
    shim.communicate(json.dumps(order), timeout=60)
    assert shim.returncode == 0
    assert evidence.read_text() == "ran\n"
    report = json.loads((session / "exit.json").read_text())
    assert (report["outcome"], report["exit_code"]) == ("exited", 0)
