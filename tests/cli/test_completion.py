"""Shell completion: scripts for three shells, ids and statuses that are offered, silence whatever goes wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from taskflow.cli.app import cli
from taskflow.cli.offers import OFFERED_MAX, TIMEOUT_S
from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer, error, make_node


def offered(*argv: str, typed: str = "") -> dict[str, Any]:
    """What a shell would offer after these words: value -> its help."""
    complete = ShellComplete(cli, {}, "taskflow", "_TASKFLOW_COMPLETE")
    return {item.value: item.help for item in complete.get_completions(list(argv), typed)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_asks_the_program(invoke: Invoke, shell: str) -> None:
    """It names the variable by which the program knows that it is asked; where the shell is installed it can read it."""
    done = invoke("completion", shell)
    assert done.exit_code == 0, done.output
    assert f"_TASKFLOW_COMPLETE={shell}_complete" in done.stdout
    assert json.loads(invoke("completion", shell, "--json").stdout)["shell"] == shell
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=30)


def test_a_shell_without_a_script_is_wrong_usage(invoke: Invoke) -> None:
    """The three that there are get named."""
    done = invoke("completion", "csh")
    assert done.exit_code == 2
    assert "fish" in done.stderr


@pytest.mark.parametrize("verb", ["show", "why", "logs", "cancel", "rerun", "run-draft"])
def test_ids_of_tasks_are_offered_with_their_title(connected: FakeServer, verb: str) -> None:
    """By what was typed; a title can't steer the terminal."""
    connected.task["title"] = "make\x1b[2J\nhello"
    assert offered(verb) == {"task-1": "queued makehello"}
    assert offered(verb, typed="task-") == {"task-1": "queued makehello"}
    assert offered(verb, typed="node") == {}
    assert connected.requests[0].query["limit"] == str(OFFERED_MAX)


def test_nodes_statuses_and_sweeps_are_offered(connected: FakeServer) -> None:
    """Where an id of a node, a status or the name of a scheduled job belongs."""
    connected.nodes = [make_node("node-1")]
    assert offered("nodes", "drain") == {"node-1": "warm local"}
    assert offered("submit", "--node") == {"node-1": "warm local"}
    assert "in_progress" in offered("list", "--status", typed="in")
    assert list(offered("sweeps", "pause", typed="res")) == ["rescue"]
    assert "token" in offered(typed="t")


def test_runs_are_offered_where_they_belong(connected: FakeServer) -> None:
    """Beside tasks where both are taken; a server is asked for those alone that what was typed can mean."""
    connected.runs = [{"id": "run-7", "status": "waiting", "pipeline": "order", "subject": "order 7"}]
    connected.nodes = [make_node("node-1")]
    for verb in ("show", "why", "cancel", "rerun"):
        assert list(offered(verb)) == ["task-1", "run-7"]
    assert list(offered("cancel", "task-1")) == ["task-1", "run-7"]
    assert offered("signal") == {"run-7": "waiting order order 7"}
    assert list(offered("events")) == ["task-1", "run-7", "node-1"]
    assert (list(offered("logs")), list(offered("errors")), list(offered("runs"))) == (["task-1"],) * 3
    connected.requests.clear()
    assert list(offered("show", typed="run-")) == ["run-7"]
    assert [one.path for one in connected.requests] == ["/api/runs"]


def test_pipelines_are_offered(connected: FakeServer) -> None:
    """Where one is started or listed by."""
    assert offered("start") == offered("list", "--pipeline") == {"order": "version 2", "export": "version 1"}
    assert list(offered("start", typed="or")) == ["order"]


def test_runs_of_a_task_are_offered_by_their_number(connected: FakeServer) -> None:
    """Of the task that was named before."""
    connected.runs = [{"id": "run-2", "number": 2, "created_at": "2026-01-01T00:00:00.000Z"}]
    assert offered("logs", "task-1", "--run") == {"2": "run-2 2026-01-01T00:00:00.000Z"}
    assert offered("logs", "--run") == {}


def test_nothing_that_goes_wrong_is_said(
    connected: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server, a refusal, a wrong setting, no token: nothing is offered, nothing is written, nothing is repeated."""
    connected.refuse[("GET", "/api/tasks")] = (503, error("away", "not now"))
    assert offered("show") == {}
    assert len(connected.requests) == 1
    connected.stop()
    assert offered("show") == {}
    monkeypatch.delenv("TASKFLOW_TOKEN")
    assert offered("show") == {}
    monkeypatch.setenv("TASKFLOW_PORT", "eighty")
    assert offered("show") == {}
    assert capsys.readouterr() == ("", "")


def test_a_prompt_waits_for_no_server(connected: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request carries the short limit to the transport."""
    seen = []

    def request(self: Any, method: str, url: str, **how: Any) -> Any:
        seen.append(how["timeout"])
        raise ConnectionError

    monkeypatch.setattr("requests.Session.request", request)
    assert offered("show") == {}
    assert seen == [(TIMEOUT_S, TIMEOUT_S)]
