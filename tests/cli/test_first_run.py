"""``make run``: the places it makes and removes, and what it gives its task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from taskflow.stack import first_run
from tests.cli.conftest import git
from tests.cli.fake_server import FakeServer, Request
from tests.support.waiting import wait_until


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, dict[str, str]]]:
    """What ``run_task`` was called with; the task itself is not run."""
    calls: list[tuple[Path, dict[str, str]]] = []

    def run_task(repository: Path, environ: Mapping[str, str]) -> int:
        assert git(repository, "log", "--format=%s") == "Begin"
        assert git(repository, "status", "--porcelain") == ""
        calls.append((repository, dict(environ)))
        return 1

    monkeypatch.setattr(first_run, "run_task", run_task)
    return calls


def test_its_places_are_temporary(
    seen: list[tuple[Path, dict[str, str]]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repository with one commit and a data directory, both gone afterwards; the exit code is the task's."""
    monkeypatch.delenv("TASKFLOW_DATA_DIR")
    monkeypatch.setenv("TASKFLOW_URL", "http://elsewhere")
    assert first_run.main() == 1
    repository, environ = seen[0]
    assert Path(environ["TASKFLOW_DATA_DIR"]).parent == repository.parent
    assert not repository.parent.exists()
    assert "TASKFLOW_URL" not in environ
    assert "merge" not in capsys.readouterr().out


@pytest.mark.usefixtures("seen")
def test_it_says_that_its_own_repository_is_not_to_be_merged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that merges, which its task has printed, is of use in a repository that stays."""
    monkeypatch.setattr(first_run, "run_task", lambda *_: 0)
    assert first_run.main() == 0
    assert "removed now; in a repository of yours you would merge it now" in capsys.readouterr().out


def test_a_data_directory_of_the_environment_is_kept(
    seen: list[tuple[Path, dict[str, str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who names one wants to look into it."""
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv("TASKFLOW_DATA_DIR", str(tmp_path / "kept"))
    first_run.main()
    assert seen[0][1]["TASKFLOW_DATA_DIR"] == str(tmp_path / "kept")
    assert (tmp_path / "kept").exists()


def test_its_command_counts_words(tmp_path: Path) -> None:
    """The command does what it says, on nothing but a shell."""
    repository = first_run.make_repository(tmp_path / "r", os.environ)
    done = subprocess.run(["sh", "count.sh"], cwd=repository, capture_output=True, text=True, check=True)
    assert "counted plan.txt: 5 words" in done.stdout
    assert "5  plan.txt" in (repository / "report.txt").read_text(encoding="utf-8")


def test_a_signal_reaches_the_command_line_once(server: FakeServer, tmp_path: Path) -> None:
    """One Ctrl-C is one: the task is cancelled and cleaned up, not left as it is."""
    server.walk_to_running()

    def on_request(request: Request) -> None:
        if request.path.endswith("/cancel"):
            server.end("cancelled")

    server.on_request = on_request
    code = (
        "import os, sys; from pathlib import Path; from taskflow.stack import first_run;"
        "sys.exit(first_run.run_task(first_run.make_repository(Path(sys.argv[1]), os.environ), os.environ))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        env={**os.environ, "TASKFLOW_URL": server.url, "TASKFLOW_TOKEN": server.token},
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: len(server.asked("GET", "/events")) > 1, "the task is followed")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cancelled   task-1" in out
