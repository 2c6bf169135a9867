"""``make run``: one real task against a real git repository, on a stack of its own, and nothing left behind.

Everything lies in a temporary directory; only a data directory that the environment names is kept.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from taskflow.agent.processes import set_parent_death_signal
from taskflow.stack.environment import DATA_DIR

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The task is to run on the stack of this run, whatever server the user otherwise talks to.
_NOT_FOR_THE_CHILD = ("TASKFLOW_URL", "TASKFLOW_TOKEN", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

README = """\
# A first repository

It was made for a first task: the script counts the words of the texts here, one after the other,
and writes what it found into a report. Look at the output branch for the commit.
"""
SCRIPT = """\
#!/bin/sh
# Counts the words of every text of this repository into report.txt.
set -eu
echo "words  file" > report.txt
for file in *.md *.txt; do
    [ "$file" = report.txt ] && continue
    words=$(wc -w < "$file")
    echo "counted $file: $words words"
    echo "$words  $file" >> report.txt
    sleep 0.3
done
echo "wrote report.txt"
"""
FILES = {
    "README.md": README,
    "count.sh": SCRIPT,
    "notes.txt": "durable means that a crash is an event like any other\n",
    "plan.txt": "clone, count, write, commit, push\n",
}


def make_repository(directory: Path, environ: Mapping[str, str]) -> Path:
    """A small git repository with one commit, in ``directory``. Raises ``CalledProcessError``."""
    directory.mkdir()
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    identity = ["-c", "user.name=taskflow", "-c", "user.email=taskflow@localhost", "-c", "commit.gpgsign=false"]
    for arguments in (
        ["-c", "init.defaultBranch=main", "init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "Begin"],
    ):
        subprocess.run(["git", *arguments], cwd=directory, env=dict(environ), check=True, stdin=subprocess.DEVNULL)
    return directory


def run_task(repository: Path, environ: Mapping[str, str]) -> int:
    """``taskflow run`` as a child that gets our signals. Returns its exit code."""
    argv = [sys.executable, "-m", "taskflow", "run", "--repo", str(repository), "--title", "Count the words"]
    child = subprocess.Popen(
        [*argv, "--", "sh", "count.sh"],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        # Away from the terminal's Ctrl-C, which is forwarded: twice would mean "leave it as it is".
        start_new_session=True,
        preexec_fn=lambda: set_parent_death_signal(signal.SIGTERM),
    )

    def forward(number: int, _frame: FrameType | None) -> None:
        if child.returncode is None:
            os.kill(child.pid, number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def main() -> int:
    """Make the places, run the task, remove the places. Returns the exit code of the task's command line."""
    with tempfile.TemporaryDirectory(prefix="taskflow-run-") as name:
        place = Path(name)
        environ = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_THE_CHILD}
        environ[DATA_DIR] = environ.get(DATA_DIR) or str(place / "data")
        repository = make_repository(place / "repository", environ)
        print(f"a repository with {len(FILES)} files: {repository}", flush=True)
        code = run_task(repository, environ)
        merging = "; in a repository of yours you would merge it now" if code == 0 else ""
        print(f"\n{repository} was made for this run and is removed now{merging}", flush=True)
        return code


if __name__ == "__main__":
    sys.exit(main())
