"""Following a task: everything once and in order, over restarts of the server, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from taskflow.cli import follow
from taskflow.cli.client import Api
from taskflow.cli.follow import Follower, write_log
from taskflow.cli.problems import NoServer
from taskflow.cli.render import LogLines, Progress, clean
from taskflow.cli.runs import RunFollower
from taskflow.cli.transport import Target
from taskflow.clock import ManualClock
from tests.cli.conftest import Invoke
from tests.cli.fake_server import END, FakeServer, error


class Recording(Progress):
    """Keeps the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


class Script:
    """Does the next thing each time the follower waits; time moves by 1 s."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self.acts = list(acts)
        self.clock = ManualClock()

    def __call__(self, _seconds: float) -> None:
        self.clock.advance(1.0)
        if self.acts:
            self.acts.pop(0)()


class VirtualClock(ManualClock):
    """Moves by 1 s at each pause, and does the next thing then."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[Callable[[], object]] = []

    def sleep(self, _seconds: float) -> None:  # virtual
        """Move on by a second."""
        self.advance(1.0)
        if self.acts:
            self.acts.pop(0)()


def make_follower(server: FakeServer, script: Script, progress: Progress) -> Follower:
    """A follower of the server's task that waits by the script."""
    api = Api(Target(server.url, server.token), clock=script.clock)
    return Follower(api, server.task, progress, sleep=script, clock=script.clock)


def test_steps_output_and_statuses_come_in_order(server: FakeServer) -> None:
    """Steps with their durations, statuses, the output above the line that says the command is over."""
    progress = Recording()
    script = Script(
        server.walk_to_running,
        lambda: server.chunks.append(b"one\ntw"),
        lambda: server.chunks.append(b"o\nthree"),
        lambda: server.end("completed"),
    )
    task = make_follower(server, script, progress).run()
    assert task["status"] == "completed"
    assert progress.lines == [
        "  -> queued",
        "  node_selection         20 ms",
        "  workspace_ready        1.2 s",
        "  -> in_progress",
        "  agent_session          0.1 s",
        "  | one",
        "  | two",
        "  | three",
        "  running                3.0 s",
        "  -> completed",
        "  cleanup                50 ms",
    ]


def test_following_goes_on_after_the_server_was_away(server: FakeServer) -> None:
    """A web process that restarts costs a pause: what was seen is not shown again, what came meanwhile is shown."""
    progress = Recording()

    def while_away() -> None:
        server.chunks.append(b"two\n")
        server.start()

    script = Script(
        server.walk_to_running,
        lambda: server.chunks.append(b"one\n"),
        lambda: None,
        server.stop,
        lambda: None,
        lambda: None,
        lambda: None,
        while_away,
        lambda: server.end("completed"),
    )
    make_follower(server, script, progress).run()
    assert [line for line in progress.lines if line.startswith("  | ")] == ["  | one", "  | two"]
    assert len([line for line in progress.lines if "workspace_ready" in line]) == 1
    assert any("does not answer" in line for line in progress.lines)
    assert any("answers again" in line for line in progress.lines)
    after = [int(request.query["after"]) for request in server.asked("GET", "/logs")]
    assert after == sorted(after)


def test_the_output_alone_is_followed_over_a_restart_too(server: FakeServer) -> None:
    """Each piece once, byte for byte; that the server was away is said beside it. Without following it is an error."""
    written: list[int] = []
    said: list[str] = []

    def while_away() -> None:
        server.chunks.append(b"two\n")
        server.start()

    acts = (server.stop, *[lambda: None] * 5, while_away, lambda: server.end("completed"))
    script = Script(lambda: server.chunks.append(b"one\n"), lambda: None, *acts)
    api = Api(Target(server.url, server.token), clock=script.clock, patience_s=0.0)

    def take(chunk: Mapping[str, Any]) -> None:
        written.append(chunk["number"])

    write_log(api, "task-1", take, follow=True, say=said.append, sleep=script, clock=script.clock)
    assert written == [1, 2]
    assert [text.partition(" (")[0] for text in said] == ["the server does not answer", "the server answers again"]
    server.stop()
    with pytest.raises(NoServer):
        write_log(api, "task-1", take, follow=False, say=said.append, sleep=script, clock=script.clock)


@pytest.fixture
def run(server: FakeServer) -> dict[str, Any]:
    """An open run of a pipeline of one's own, which the server has."""
    server.task = {
        "id": "run-1",
        "status": "running",
        "finished": False,
        "step": "pay",
        "pipeline": "order",
        "number": 1,
    }
    server.event("run_started", "pay")
    return server.task


def make_run_follower(server: FakeServer, progress: Progress, clock: ManualClock) -> RunFollower:
    """A follower of the server's run."""
    return RunFollower(Api(Target(server.url, server.token), clock=clock), server.task, progress, clock=clock)


def end_run(server: FakeServer) -> None:
    """The run is completed."""
    server.event("run_finished", "pack", **{"from": "pack", "duration_s": 0.05})
    server.task |= {"status": "completed", "finished": True, "step": None}


def test_a_run_is_followed_over_one_stream(server: FakeServer, run: dict[str, Any]) -> None:
    """Its steps, attempts that failed and signals come as they happen; one request has all of them."""
    progress = Recording()
    server.acts = [
        lambda: server.event("step_failed", "pay", attempt=1, message="declined", retry_in_s=2.0),
        lambda: server.event("signal_recorded", "pay", name="paid", subject=""),
        lambda: server.event("step_entered", "running", **{"from": "pay", "duration_s": 3.0}),
        lambda: end_run(server),
    ]
    assert make_run_follower(server, progress, ManualClock()).run()["status"] == "completed"
    assert progress.lines == [
        "  pay: attempt 1 failed: declined, again in 2.0 s",
        "  signal paid by runner",
        "  pay                    3.0 s",
        "  pack                   50 ms",
    ]
    assert len(server.asked("GET", "/events")) == 1
    assert server.asked("GET", "/logs") == []  # also of a step whose name is one of a task's


@pytest.mark.parametrize("how", ["the server restarts", "the stream ends"])
def test_a_run_is_followed_over_the_end_of_a_stream(server: FakeServer, run: dict[str, Any], how: str) -> None:
    """What was seen is not shown again, what came meanwhile is shown."""
    progress, clock = Recording(), VirtualClock()

    def go_on() -> None:
        server.event("step_entered", "pack", **{"from": "pay", "duration_s": 1.0})
        server.acts = [lambda: end_run(server)]
        if not server.is_up:
            server.start()

    def break_off() -> object:
        # Before the next stream is asked for there is a pause: the first act.
        clock.acts = [server.stop, *[lambda: None] * 4, go_on] if how == "the server restarts" else [go_on]
        return END

    server.acts = [lambda: server.event("step_failed", "pay", attempt=1, message="no"), break_off]
    assert make_run_follower(server, progress, clock).run()["finished"] is True
    steps = [line for line in progress.lines if "server" not in line]
    assert steps == ["  pay: attempt 1 failed: no", "  pay                    1.0 s", "  pack                   50 ms"]
    assert any("answers again" in line for line in progress.lines) is (how == "the server restarts")
    assert {request.query["after"] for request in server.asked("GET", "/events")} >= {"0", "2"}


def test_a_run_is_followed_page_by_page_where_there_is_no_room_for_a_stream(
    server: FakeServer, run: dict[str, Any]
) -> None:
    """Pages are served all the time."""
    progress, clock = Recording(), VirtualClock()
    server.no_room = True
    clock.acts = [
        lambda: server.event("step_entered", "pack", **{"from": "pay", "duration_s": 1.0}),
        lambda: None,
        lambda: end_run(server),
    ]
    assert make_run_follower(server, progress, clock).run()["finished"] is True
    assert progress.lines == ["  pay                    1.0 s", "  pack                   50 ms"]


def test_a_run_whose_events_are_gone_is_seen_to_have_ended(server: FakeServer, run: dict[str, Any]) -> None:
    """Events are pruned one day; following does not wait for them."""
    server.events.clear()
    run |= {"status": "failed", "finished": True}
    assert make_run_follower(server, Recording(), ManualClock()).run()["status"] == "failed"


def test_what_the_stream_did_not_bring_before_the_end_is_read(server: FakeServer, run: dict[str, Any]) -> None:
    """A run may be seen to be over while the frames of its last steps are still on their way."""
    progress = Recording()
    server.event("step_entered", "pack", **{"from": "pay", "duration_s": 1.0})
    end_run(server)
    follower = make_run_follower(server, progress, ManualClock())
    follower._read_events = lambda: False  # type: ignore[method-assign]
    assert follower.run()["finished"] is True
    assert progress.lines == ["  pay                    1.0 s", "  pack                   50 ms"]


def test_a_run_that_is_followed_ends_with_its_outcome(
    connected: FakeServer, invoke: Invoke, run: dict[str, Any]
) -> None:
    """0 for completed, 1 for failed; as JSON the run alone is on standard output."""
    end_run(connected)
    done = invoke("show", "-f", "run-1")
    assert (done.exit_code, "pack                   50 ms" in done.stdout) == (0, True)
    assert "completed   run-1" in done.stdout
    run["status"] = "failed"
    as_json = invoke("show", "-f", "--json", "run-1")
    assert (as_json.exit_code, json.loads(as_json.stdout)["status"]) == (1, "failed")
    assert "pack" in as_json.stderr


def test_an_event_whose_answer_broke_off_is_shown_once(server: FakeServer) -> None:
    """When reading the output fails in the middle of an event, the event comes again and is shown once."""
    progress = Recording()
    server.walk_to_running()
    server.chunks.append(b"last words")

    def break_off() -> None:
        server.end("completed")
        server.refuse[("GET", "/logs")] = (503, error("away", "not now"))

    script = Script(break_off, lambda: None, server.refuse.clear)
    make_follower(server, script, progress).run()
    assert progress.lines.count("  running                3.0 s") == 1
    assert progress.lines.index("  | last words") < progress.lines.index("  running                3.0 s")


def test_a_server_that_stays_away_ends_the_following(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Following gives up after its limit; the error is exit code 3."""
    monkeypatch.setattr(follow, "LOST_MAX_S", 20.0)
    script = Script(server.stop)
    with pytest.raises(NoServer):
        make_follower(server, script, Recording()).run()
    assert script.clock.now() - ManualClock().now() >= 20.0


def test_cleanup_is_waited_for(server: FakeServer) -> None:
    """A terminal status is not the end: what exists is still being cleaned up."""
    progress = Recording()
    server.walk_to_running()
    server.event("status_changed", **{"from": "in_progress", "to": "failed"})
    server.task.update(status="failed", finished=False)
    asked: list[int] = []
    script = Script(*[lambda: asked.append(1)] * 8, lambda: server.end("failed"))
    task = make_follower(server, script, progress).run()
    assert len(asked) == 8
    assert task["finished"]


def test_an_earlier_run_is_not_shown(server: FakeServer) -> None:
    """Following a rerun shows the rerun only."""
    server.event("step_entered", "cleanup", **{"from": "old_step", "duration_s": 1.0})
    server.events[0]["run_id"] = "run-0"
    server.walk_to_running()
    server.end("completed")
    progress = Recording()
    make_follower(server, Script(), progress).run()
    assert not any("old_step" in line for line in progress.lines)


def test_failed_attempts_are_told(server: FakeServer) -> None:
    """Each failed attempt is a line with its reason and when the next one is."""
    server.event("step_failed", "workspace_ready", attempt=1, message="no route", retry_in_s=2.0)
    server.end("failed")
    progress = Recording()
    make_follower(server, Script(), progress).run()
    assert "  workspace_ready: attempt 1 failed: no route, again in 2.0 s" in progress.lines


def test_output_can_not_steer_the_terminal() -> None:
    """Escape sequences and control characters of a command are not passed on; letters of any kind are."""
    lines = LogLines()
    snowman = "☃".encode()
    assert lines.feed(b"\x1b[31mred\x1b[0m \x1b]0;title\x07x\x00\n10%\r100%\r\n" + snowman[:1]) == ["red x", "100%"]
    assert lines.feed(snowman[1:] + b"\xff\nrest") == ["☃�"]
    assert lines.feed(b"", final=True) == ["rest"]
    assert clean("caf\udce9 \u202e") == "caf\ufffd "
    assert list(lines.tail) == ["red x", "100%", "☃�", "rest"]


# --- the commands around it


def test_show_follow_ends_with_the_outcome(connected: FakeServer, invoke: Invoke) -> None:
    """``show -f`` exits 0 for completed and 1 for failed, with the error, its advice and the end of the log."""
    connected.walk_to_running()
    connected.chunks.append(b"boom\n")
    problem = {"code": "command_failed", "message": "the command exited with status 3", "advice": "look at the log"}
    connected.end("failed", error=problem, result={"exit_code": 3})
    done = invoke("show", "-f", "task-1")
    assert done.exit_code == 1
    for said in ("the command exited with status 3", "look at the log", "exit status  3", "    boom"):
        assert said in done.stdout
    connected.task.update(status="completed")
    assert invoke("show", "-f", "task-1").exit_code == 0


def test_piped_progress_has_no_control_codes(connected: FakeServer, invoke: Invoke) -> None:
    """What a pipe gets is plain lines."""
    connected.walk_to_running()
    connected.end("completed")
    done = invoke("show", "-f", "task-1")
    assert "\x1b" not in done.output
    assert "\r" not in done.output


def test_json_of_a_followed_task_is_one_document(connected: FakeServer, invoke: Invoke) -> None:
    """With ``--json`` standard output is the task, the progress goes to standard error."""
    connected.walk_to_running()
    connected.end("completed", result={"output_branch": "b", "commit": "c", "pushed": True})
    done = invoke("show", "-f", "--json", "task-1")
    assert json.loads(done.stdout)["merge_command"] == "git -C /srv/repo merge b"
    assert "workspace_ready" in done.stderr


def test_logs_are_byte_for_byte(connected: FakeServer, invoke: Invoke) -> None:
    """``logs`` adds and removes nothing; with ``-f`` it goes on until the command is over."""
    connected.chunks += [b"\x1b[31ma\xff", b"\x00b"]
    assert invoke("logs", "task-1").stdout_bytes == b"\x1b[31ma\xff\x00b"

    def more(_request: object) -> None:
        if len(connected.asked("GET", "/logs")) == 3:
            connected.chunks.append(b"c")
            connected.ended = True

    connected.requests.clear()
    connected.on_request = more
    assert invoke("logs", "-f", "task-1").stdout_bytes == b"\x1b[31ma\xff\x00bc"
    lines = invoke("logs", "--json", "task-1").stdout.splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]
