"""Talking to the server: finding it, repeating what may be repeated, saying what went wrong."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from taskflow.cli import connection, transport
from taskflow.cli.client import Api
from taskflow.cli.problems import CommandError, NoServer
from taskflow.cli.transport import Target
from taskflow.clock import ManualClock
from taskflow.file_lock import FileLock
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir, StackInfo
from tests.cli.conftest import Invoke
from tests.cli.fake_server import TOKEN, FakeServer, error


def make_info(url: str, token: str) -> StackInfo:
    """How to reach a stack."""
    return StackInfo(
        url=url, token=token, redis_url="redis://:pw@127.0.0.1:1/0", database_url="sqlite:////nowhere.db",
        flower_url="", flower_user="", flower_password="", supervisor_pid=1, started_at=0.0,
    )  # fmt: skip


@pytest.fixture
def stack(server: FakeServer, tmp_path: Path) -> Iterator[DataDir]:
    """The data directory, served by the scripted server."""
    data_dir = DataDir(Settings(data_dir=str(tmp_path / "data")))
    lock = FileLock(data_dir.supervisor_lock)
    assert lock.acquire()
    data_dir.write_stack_info(make_info(server.url, server.token))
    yield data_dir
    lock.release()


@pytest.fixture
def api(server: FakeServer) -> Api:
    """A client with a clock that moves by itself."""
    return Api(Target(server.url, server.token), clock=ManualClock())


SPEC = {"repository": "/srv/repo", "command": ["true"]}


def test_a_repeated_submission_carries_the_same_key(server: FakeServer, api: Api) -> None:
    """An answer that got lost leads to the same request again, with the same Idempotency-Key: one task, not two."""
    server.drop = 2
    assert api.submit(SPEC)["id"] == "task-1"
    keys = [request.headers["Idempotency-Key"] for request in server.asked("POST", "/api/tasks")]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    api.submit(SPEC)
    assert server.requests[-1].headers["Idempotency-Key"] != keys[0]


@pytest.mark.parametrize("verb", ["rerun", "run_draft", "cancel"])
def test_what_must_not_happen_twice_is_repeated_with_its_key(server: FakeServer, api: Api, verb: str) -> None:
    """An answer that got lost: the server can tell the repeat from a second wish."""
    server.drop = 1
    assert getattr(api, verb)("task-1")["id"] == "task-1"
    first, second = (request.headers["Idempotency-Key"] for request in server.requests)
    assert first == second
    getattr(api, verb)("task-1")
    assert server.requests[-1].headers["Idempotency-Key"] != first


def test_a_busy_server_is_asked_again(server: FakeServer, api: Api) -> None:
    """503 is the server's word for "later"; in the end it is exit code 3."""
    server.refuse[("GET", "/task-1")] = (503, error("redis", "a store is not usable now", advice="wait"))
    with pytest.raises(NoServer) as caught:
        api.task("task-1")
    assert len(server.requests) > 3
    assert (caught.value.exit_code, caught.value.advice) == (3, "wait")


def test_a_limit_is_asked_again_and_is_no_missing_server(server: FakeServer, api: Api) -> None:
    """429: whoever has too much already reads that, and a script does not look for a server that runs."""
    server.refuse[("GET", "/task-1")] = (429, error("too_many_tasks", "your owner has 5000 open tasks"))
    with pytest.raises(NoServer, match="5000 open tasks") as caught:
        api.task("task-1")
    assert len(server.requests) > 3
    assert caught.value.exit_code == 1


def test_answers_that_are_not_of_taskflow_are_reported(server: FakeServer, api: Api) -> None:
    """A redirect is not followed (it would carry the token elsewhere), and says so."""
    server.refuse[("GET", "/task-1")] = (302, {})
    with pytest.raises(CommandError, match="302"):
        api.task("task-1")
    assert server.asked("GET", "/elsewhere") == []


@pytest.mark.parametrize(
    ("status", "exit_code", "advice"), [(404, 1, "TASKFLOW_URL"), (401, 1, "TASKFLOW_URL"), (502, 3, "web process")]
)
def test_what_is_no_taskflow_is_not_taken_for_one(
    connected: FakeServer,
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    exit_code: int,
    advice: str,
) -> None:
    """Another server's 404 says nothing of a task, its 401 nothing of the token; a proxy's 502 is no server."""
    monkeypatch.setattr(transport, "PATIENCE_S", 0.0)
    connected.refuse[("GET", "/task-1")] = (status, {})
    done = invoke("show", "task-1")
    assert done.exit_code == exit_code
    assert "which is no answer of taskflow" in done.stderr
    assert advice in done.stderr and "taskflow token" not in done.stderr


def test_what_a_server_says_of_an_error_can_not_steer_the_terminal(connected: FakeServer, invoke: Invoke) -> None:
    """Its words may be those of a provider, a repository or whoever listens there."""
    words = "no\x1b[2J such\x1b]0;title\x07 thing\nsecond line"
    said = error("refused", words, advice="\x1b[1mdo")
    said["error"]["fields"] = {"title": "\x1b[31mred"}
    connected.refuse[("GET", "/task-1")] = (409, said)
    done = invoke("show", "task-1")
    assert "no such thing\nsecond line\n  do\n  --title: red\n" in done.stderr
    assert not set(done.stderr) & {"\x1b", "\x07"}


def test_a_name_that_no_host_has_is_said(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not that nobody listens."""
    monkeypatch.setattr(transport, "PATIENCE_S", 0.0)
    monkeypatch.setenv("TASKFLOW_URL", "http://nowhere.invalid")
    monkeypatch.setenv("TASKFLOW_TOKEN", "t")
    done = invoke("list")
    assert (done.exit_code, "no host of that name" in done.stderr) == (3, True)


def test_no_server_is_exit_code_3(invoke: Invoke) -> None:
    """Without a stack and without a URL: what to do, in two lines."""
    done = invoke("list")
    assert done.exit_code == 3
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 2
    assert "taskflow up" in done.stderr


def test_a_server_that_is_away_is_exit_code_3(
    connected: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at TASKFLOW_URL: the address is named, the token is not."""
    monkeypatch.setattr(transport, "PATIENCE_S", 0.0)
    connected.stop()
    done = invoke("show", "task-1")
    assert done.exit_code == 3
    assert connected.url in done.stderr
    assert "nobody listens there" in done.stderr
    assert TOKEN not in done.output


def test_an_unknown_id_is_exit_code_4(connected: FakeServer, invoke: Invoke) -> None:
    """Each command about a task says that there is no such one."""
    for command in ("show", "logs", "why", "cancel", "rerun", "run-draft"):
        done = invoke(command, "task-unknown")
        assert (command, done.exit_code) == (command, 4)
        assert "no such task" in done.stderr
        assert len(done.stderr.splitlines()) == 1  # its field has nothing to add


def test_a_run_has_no_output(connected: FakeServer, invoke: Invoke) -> None:
    """Said before anybody is asked: its address would be one that there is not."""
    done = invoke("logs", "run-1")
    assert (done.exit_code, "has no output" in done.stderr) == (2, True)
    assert connected.requests == []


def test_a_wrong_token_is_explained(connected: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 says which variable to set and does not repeat the token."""
    monkeypatch.setenv("TASKFLOW_TOKEN", "tf_wrong-token")
    done = invoke("list")
    assert done.exit_code == 1
    assert "TASKFLOW_TOKEN" in done.stderr
    assert "tf_wrong-token" not in done.output


def test_a_url_without_a_token_is_a_usage_error(
    connected: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The missing half is named, once, and how to get it."""
    monkeypatch.delenv("TASKFLOW_TOKEN")
    done = invoke("list")
    assert done.exit_code == 2
    assert done.stderr.count("TASKFLOW_TOKEN is empty") == 1
    assert f"TASKFLOW_URL names {connected.url}" in done.stderr
    assert "taskflow token create --name NAME" in done.stderr and "export TASKFLOW_TOKEN=" in done.stderr


@pytest.mark.parametrize("token", ["tf_one\r", "tf_one\ntwo", "tf_\u00e9ne", "tf one"])
def test_a_token_that_no_header_carries_is_a_usage_error(
    connected: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """As it comes out of a file with another line end: the variable is named, no part of the token is repeated."""
    monkeypatch.setenv("TASKFLOW_TOKEN", token)
    done = invoke("list")
    assert done.exit_code == 2
    assert "TASKFLOW_TOKEN: holds a character" in done.stderr
    assert not [part for part in ("tf_", "one", "two") if part in done.stderr.replace("TASKFLOW_TOKEN is no token", "")]
    assert connected.requests == []


def test_a_url_that_is_none_is_a_usage_error(
    connected: FakeServer, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No scheme, no server: that is said first, whether there is a token or not."""
    monkeypatch.setenv("TASKFLOW_URL", "localhost:8750")
    for _ in range(2):
        done = invoke("list")
        assert done.exit_code == 2
        assert "TASKFLOW_URL: must be an address like https://" in done.stderr and "TOKEN" not in done.stderr
        monkeypatch.delenv("TASKFLOW_TOKEN", raising=False)


def test_the_stack_of_the_data_directory_is_used(stack: DataDir, invoke: Invoke) -> None:
    """Its address and token come from its file; no variable is needed."""
    done = invoke("show", "task-1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["id"] == "task-1"
    assert TOKEN not in done.output


def test_looking_for_a_server_makes_no_directory(invoke: Invoke, tmp_path: Path) -> None:
    """A command that finds nothing leaves nothing."""
    invoke("list")
    assert not (tmp_path / "data").exists()


def test_a_directory_that_no_stack_served_is_left_alone(invoke: Invoke, tmp_path: Path) -> None:
    """Whoever names another directory by mistake finds it as it was: its rights, and nothing new in it."""
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    assert invoke("list").exit_code == 3
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    assert list((tmp_path / "data").iterdir()) == []


def test_a_stack_that_moved_is_found_again(stack: DataDir, server: FakeServer, tmp_path: Path) -> None:
    """After a new start of the stack, its new address and token are taken up."""
    api = connection.connect(Settings(data_dir=str(tmp_path / "data")))
    assert not api.look_again()
    server.token = "another"
    stack.write_stack_info(make_info(server.url, "another"))
    assert api.look_again()
    assert api.task("task-1")["id"] == "task-1"


def test_a_stack_that_is_starting_is_waited_for(stack: DataDir, tmp_path: Path) -> None:
    """Locked but without its file: neither used nor replaced, until it is there or gone, or too long about it."""
    settings = Settings(data_dir=str(tmp_path / "data"))
    stack.clear_stack_info()
    info = make_info("http://127.0.0.1:1", "t")

    class Clock(ManualClock):
        def sleep(self, seconds: float) -> None:  # virtual
            self.advance(seconds)
            if self.now() > 1_700_000_003:
                stack.write_stack_info(info)

    assert connection.wait_while_changing(settings, Clock()) == Target(info.url, "t")
    stack.clear_stack_info()
    with pytest.raises(NoServer):
        connection.wait_while_changing(settings, ManualClock())


def test_stores_are_those_of_the_environment_or_the_stack(stack: DataDir, tmp_path: Path) -> None:
    """A Redis that is named wins; else the serving stack says where its stores are."""
    settings = Settings(data_dir=str(tmp_path / "data"))
    found = connection.stores(settings)
    assert found is not None
    assert (found.redis_url, found.database_url) == ("redis://:pw@127.0.0.1:1/0", "sqlite:////nowhere.db")
    named = dataclasses.replace(settings, redis_url="redis://real/0")
    assert connection.stores(named) is named
    assert connection.stores(Settings(data_dir=str(tmp_path / "nowhere"))) is None


def test_a_stream_is_read_frame_by_frame_whatever_carries_it() -> None:
    """Also where its pieces have no lengths; silence and the time to come again mean nothing; what is no event is said."""
    answer = requests.Response()
    answer.raw = io.BytesIO(b'retry: 1000\n\n: \n\nid: 1\n\nid: 2\nevent: x\ndata: {"seq": 2}\n\nid: 3\ndata: {"cut')
    assert list(transport._frames("reading", "GET /", answer)) == [("1", None), ("2", {"seq": 2})]
    answer = requests.Response()
    answer.raw = io.BytesIO(b"id: 1\ndata: <html>\n\n")
    with pytest.raises(NoServer, match="no event"):
        list(transport._frames("reading", "GET /", answer))
