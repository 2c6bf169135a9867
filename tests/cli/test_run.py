"""``taskflow run``: outcome and exit code, Ctrl-C, and a stack of its own that leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow.cli import embedded
from taskflow.cli.client import Api
from taskflow.cli.render import Progress
from taskflow.cli.transport import Target
from taskflow.errors import InfrastructureError
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from tests.cli.conftest import Invoke
from tests.cli.fake_server import TOKEN, FakeServer, Request, error, make_node
from tests.cli.test_client import make_info
from tests.support.waiting import wait_until


def ends(server: FakeServer, status: str, **changes: Any) -> Callable[[Request], None]:
    """The task ends when its events are first asked for."""

    def on_request(request: Request) -> None:
        if request.path.endswith("/events") and not server.events:
            server.walk_to_running()
            server.chunks.append(b"some output\n")
            server.end(status, **changes)

    return on_request


OUTPUT = {"output_branch": "taskflow/task-1-1", "commit": "c0ffee", "pushed": True, "changed_files": ["hello.txt"]}


def test_a_completed_task_is_exit_code_0(connected: FakeServer, invoke: Invoke, repository: Path) -> None:
    """Every step with its duration, then status, branch, commit, files and the merge command."""
    connected.on_request = ends(connected, "completed", result=OUTPUT)
    done = invoke("run", "--repo", str(repository), "--", "make", "hello")
    assert done.exit_code == 0, done.output
    for said in ("task task-1", "workspace_ready        1.2 s", "  | some output", "completed   task-1", "c0ffee"):
        assert said in done.stdout
    assert "taskflow/task-1-1 (pushed)" in done.stdout
    assert "hello.txt" in done.stdout
    assert f"git -C {repository} merge taskflow/task-1-1" in done.stdout
    assert TOKEN not in done.output


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_any_other_end_is_exit_code_1(connected: FakeServer, invoke: Invoke, repository: Path, status: str) -> None:
    """Failed and cancelled, in JSON too."""
    connected.on_request = ends(connected, status, error={"code": "x", "message": "git said no", "advice": "try"})
    done = invoke("run", "--repo", str(repository), "--", "true")
    assert done.exit_code == 1
    assert "git said no" in done.stdout
    connected.events.clear()
    done = invoke("run", "--json", "--repo", str(repository), "--", "true")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == status


def test_secrets_are_never_printed(
    connected: FakeServer, invoke: Invoke, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens, neither the values of secrets nor the token reach the terminal."""
    monkeypatch.setenv("KEY", "hunter2")
    monkeypatch.setenv("TASKFLOW_LOG_LEVEL", "DEBUG")
    argv = ("run", "--repo", str(repository), "--secret", "KEY", "--", "true")
    connected.on_request = ends(connected, "completed")
    outputs = [invoke(*argv).output]
    connected.refuse[("POST", "/api/tasks")] = (422, error("invalid", "the request does not fit"))
    outputs.append(invoke(*argv).output)
    assert connected.requests[0].body["secrets"] == {"KEY": "hunter2"}
    assert "Traceback" in outputs[1]  # asked for with DEBUG
    assert not any("hunter2" in output or TOKEN in output for output in outputs)


# --- Ctrl-C, with a real process


def start(server: FakeServer, repository: Path) -> subprocess.Popen[str]:
    """``taskflow run`` against the server, as a process."""
    environ = {**os.environ, "TASKFLOW_URL": server.url, "TASKFLOW_TOKEN": server.token}
    return subprocess.Popen(
        [sys.executable, "-m", "taskflow", "run", "--repo", str(repository), "--", "sleep", "99"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip


def cancels(server: FakeServer) -> Callable[[Request], None]:
    """The server does what is asked, a few looks later: the task is cancelled."""

    def on_request(_request: Request) -> None:
        cancelled = server.asked("POST", "/cancel")
        if cancelled and not server.ended and len(server.requests) - server.requests.index(cancelled[0]) > 5:
            server.end("cancelled")

    return on_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_cancels_and_waits_for_the_cleanup(
    server: FakeServer, repository: Path, number: signal.Signals
) -> None:
    """The task is cancelled once, followed to its end, and that is the outcome."""
    server.walk_to_running()
    server.on_request = cancels(server)
    process = start(server, repository)
    wait_until(lambda: len(server.asked("GET", "/events")) > 1, "the task is followed")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1, err
    assert "cancelling" in out
    assert "cancelled   task-1" in out
    assert len(server.asked("POST", "/cancel")) == 1


def test_the_second_ctrl_c_leaves_the_task_and_says_how_to_resume(server: FakeServer, repository: Path) -> None:
    """The process ends at once with 130; the task is where it was."""
    server.walk_to_running()
    process = start(server, repository)
    wait_until(lambda: len(server.asked("GET", "/events")) > 1, "the task is followed")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: server.asked("POST", "/cancel"), "the cancellation is sent")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "taskflow show task-1" in err
    assert "Traceback" not in err


def test_a_cancel_that_comes_too_late_is_no_error(server: FakeServer, repository: Path) -> None:
    """When the task ends in the same moment, its outcome counts."""
    server.walk_to_running()

    def on_request(request: Request) -> None:
        if request.path.endswith("/cancel"):
            server.end("completed")

    server.on_request = on_request
    server.refuse[("POST", "/cancel")] = (409, error("already_ended", "task-1 is completed already"))
    process = start(server, repository)
    wait_until(lambda: len(server.asked("GET", "/events")) > 1, "the task is followed")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


# --- a stack of its own


@dataclasses.dataclass
class FakeSupervisor:
    """Stands for the stack: the scripted server serves while it is started."""

    settings: Settings
    server: FakeServer
    with_flower: bool
    did: list[str] = dataclasses.field(default_factory=list)
    serving: bool = False
    fails: InfrastructureError | None = None

    @property
    def data_dir(self) -> Any:
        """Says whether it serves, and where."""
        fake = self

        class Dir(DataDir):
            def is_serving(self) -> bool:
                return fake.serving

            def read_stack_info(self) -> Any:
                return make_info(fake.server.url, fake.server.token)

        return Dir(self.settings)

    def start(self) -> None:
        """Serve."""
        self.did.append("start")
        if self.fails:
            raise self.fails
        self.serving = True

    def stop(self) -> None:
        """Serve no more."""
        self.did.append(f"stop with {len(self.server.nodes)} nodes")
        self.serving = False

    def hasten(self) -> None:
        """Hurry."""
        self.did.append("hasten")


@pytest.fixture
def supervisor(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeSupervisor:
    """What ``run`` starts when nothing serves."""
    fake = FakeSupervisor(Settings(), server, True)

    def make(settings: Settings, _progress: object, *, with_flower: bool) -> FakeSupervisor:
        fake.settings, fake.with_flower = settings, with_flower
        return fake

    monkeypatch.setattr(embedded, "make_supervisor", make)
    return fake


def test_without_a_server_a_stack_is_started_and_stopped(
    supervisor: FakeSupervisor, server: FakeServer, invoke: Invoke, repository: Path
) -> None:
    """Free ports, no Flower; at the end the nodes are destroyed before the stack stops."""
    server.nodes = [make_node("node-1")]
    done_first = ends(server, "completed", result=OUTPUT)

    def on_request(request: Request) -> None:
        done_first(request)
        if request.path == "/api/tasks" and request.method == "GET":
            server.refuse[("GET", "/api/tasks")] = (200, {"tasks": [], "next_cursor": None})

    server.on_request = on_request
    done = invoke("run", "--repo", str(repository), "--", "true")
    assert done.exit_code == 0, done.output
    assert (supervisor.settings.port, supervisor.with_flower) == (0, False)
    assert len(server.asked("POST", "/nodes/node-1/destroy")) == 1
    assert supervisor.did == ["start", "stop with 0 nodes"]
    assert TOKEN not in done.output


def test_other_tasks_keep_their_node(
    supervisor: FakeSupervisor, server: FakeServer, invoke: Invoke, repository: Path
) -> None:
    """A node that another open task may need is not destroyed; the user is told that it waits."""
    server.nodes = [make_node("node-1")]
    other = {**server.task, "id": "task-2", "status": "in_progress"}
    server.refuse[("GET", "/api/tasks")] = (200, {"tasks": [other], "next_cursor": None})
    server.on_request = ends(server, "completed")
    done = invoke("run", "--repo", str(repository), "--", "true")
    assert "task-2" in done.stderr
    assert server.asked("POST", "/destroy") == []
    assert supervisor.did[-1] == "stop with 1 nodes"


def test_the_stack_stops_whatever_happens(
    supervisor: FakeSupervisor, server: FakeServer, invoke: Invoke, repository: Path
) -> None:
    """A submission that is refused is exit code 2, and the stack is stopped all the same."""
    server.refuse[("POST", "/api/tasks")] = (422, error("invalid", "the request does not fit"))
    assert invoke("run", "--repo", str(repository), "--", "true").exit_code == 2
    assert supervisor.did[-1].startswith("stop")


def test_a_stack_that_ended_by_itself_ends_the_run(
    supervisor: FakeSupervisor, server: FakeServer, invoke: Invoke, repository: Path
) -> None:
    """Nobody waits for a server that will not come back."""

    def on_request(request: Request) -> None:
        supervisor.serving = not request.path.endswith("/events")

    server.on_request = on_request
    done = invoke("run", "--repo", str(repository), "--", "true")
    assert done.exit_code == 1
    assert "ended by itself" in done.stderr
    assert "taskflow up" in done.stderr


def test_a_stack_that_does_not_start_says_why(supervisor: FakeSupervisor, invoke: Invoke, repository: Path) -> None:
    """The supervisor's own words and advice, without a traceback."""
    supervisor.fails = InfrastructureError("no port can be opened", advice="set TASKFLOW_PORT")
    done = invoke("run", "--repo", str(repository), "--", "true")
    assert (done.exit_code, done.stderr) == (1, "error: no port can be opened\n  set TASKFLOW_PORT\n")


def test_a_wrong_command_line_starts_nothing(supervisor: FakeSupervisor, invoke: Invoke, tmp_path: Path) -> None:
    """What is wrong is said before a stack is started for it."""
    assert invoke("run", "--repo", str(tmp_path), "--", "true").exit_code == 2
    assert supervisor.did == []


def test_nodes_that_stay_are_named(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the nodes is bounded; what is left is named and ends with the stack."""
    server.nodes = [make_node("node-1")]
    server.refuse[("POST", "/destroy")] = (202, make_node("node-1"))
    said: list[str] = []
    progress = Progress()
    monkeypatch.setattr(progress, "warn", said.append)
    api = Api(Target(server.url, server.token))
    assert not embedded.destroy_nodes(api, lambda _seconds: None, progress, limit_s=0.05)
    assert "node-1" in said[0]
    assert len(server.asked("POST", "/destroy")) == 1


def test_names_that_are_not_utf8_are_no_obstacle(server: FakeServer, repository: Path) -> None:
    """A file whose name no stream can print is warned about like any other, in any locale."""
    (Path(os.fsdecode(os.fsencode(repository) + b"/caf\xe9"))).touch()
    server.on_request = ends(server, "completed")
    environ = {"TASKFLOW_URL": server.url, "TASKFLOW_TOKEN": server.token, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "taskflow", "run", "--repo", str(repository), "--", "true"],
        env={**os.environ, **environ}, capture_output=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"uncommitted" in done.stderr
