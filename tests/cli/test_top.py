"""``taskflow top``: one frame and one object over the real API, keys, and a server that goes away and comes back."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from taskflow.cli.client import Api
from taskflow.cli.overview import Look, Overview, frame
from taskflow.cli.problems import CommandError, NoServer
from taskflow.cli.top import Screen
from taskflow.cli.transport import Target
from tests.cli.conftest import Invoke
from tests.web.world import World


def test_one_frame_shows_tasks_steps_and_health(api: World, invoke: Invoke) -> None:
    """Counts, health by store (no migration ran here), each wait, a failed one with its reason; no control codes."""
    task = api.submit(title="make hello")
    broken = api.submit(title="break")
    api.end(broken, "failed", {"code": "x", "message": "it broke"})
    done = invoke("top", "--once")
    assert done.exit_code == 0, done.output
    for said in ("0 running", "1 waiting", "alarms late 0 of 1", "NOT READY", "migrations failed", "node_selection 1",
                 task["id"], "a node is being chosen", broken["id"], "it broke"):  # fmt: skip
        assert said in done.stdout
    assert "\x1b" not in done.output
    assert api.token not in done.output


def test_runs_of_own_pipelines_are_among_what_goes_on(api: World, invoke: Invoke) -> None:
    """Counted and listed with what they wait for, and a failed one with its reason."""
    run = api.start(subject="book 7")
    broken = api.start(subject="book 8")
    api.end_run(broken, {"code": "declined", "message": "the card was declined"})
    out = invoke("top", "--once").stdout
    for said in ("1 running", "0 waiting", "alarms late 0 of 1", run["id"], "order book 7", "order.paid 1", broken["id"],
                 "the card was declined"):  # fmt: skip
        assert said in out, said
    found = json.loads(invoke("top", "--json").stdout)
    assert [one["id"] for one in found["runs"]] == [run["id"]] and found["runs"][0]["why"]["step"] == "paid"
    assert [one["id"] for one in found["failed_runs"]] == [broken["id"]] and found["tasks"] == []


def test_json_is_one_object(api: World, invoke: Invoke) -> None:
    """The same as data, each open task with what it waits for."""
    task = api.submit()
    found = json.loads(invoke("top", "--json").stdout)
    assert found["counts"] == {"running": 0, "waiting": 1, "failing": 0}
    assert found["tasks"][0]["why"]["step"] == "node_selection"
    assert [one["id"] for one in found["tasks"]] == [task["id"]]
    assert set(found) == {"health", "counts", "more", "steps", "alarms", "tasks", "runs", "failed", "failed_runs", "nodes",
                          "events"}  # fmt: skip


def test_an_empty_installation_has_a_frame(api: World, invoke: Invoke) -> None:
    """Nothing under way, no nodes."""
    out = invoke("top", "--once").stdout
    assert "no task is under way" in out
    assert "no nodes" in out


class Scripted(Overview):
    """An overview of three tasks whose server can be taken away."""

    def __init__(self) -> None:
        super().__init__(Api(Target("http://127.0.0.1:1", "none")))
        self.fault: CommandError | None = None
        self.ids = ["task-a", "task-b", "task-c"]
        self.asked: list[str] = []

    def look(self) -> dict[str, Any]:
        """What a server would say."""
        if self.fault is not None:
            raise self.fault
        tasks = [
            {"id": one, "status": "in_progress", "step": "running", "title": f"\x1b[2Jof {one}", "error": None, "why": None}
            for one in self.ids
        ]  # fmt: skip
        return {
            "health": {"ready": True, "checks": {"redis": "ok"}}, "more": False, "steps": {"running": 3},
            "counts": {"running": 3, "waiting": 0, "failing": 0}, "alarms": {"late": 1, "missing": 0, "asked": 3},
            "tasks": tasks, "runs": [], "failed": [], "failed_runs": [], "nodes": [], "events": [],
        }  # fmt: skip

    def why(self, task_id: str) -> dict[str, Any]:
        """What it waits for."""
        self.asked.append(task_id)
        return {"summary": f"why of {task_id}", "step": "running"}


def drawn(screen: Screen) -> str:
    """What is on the screen."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(screen.draw())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def overview() -> Scripted:
    """Three tasks."""
    return Scripted()


def test_keys_move_the_mark_and_open_the_why(overview: Scripted) -> None:
    """It stops at both ends; enter opens the why of the marked task, and again closes it."""
    screen = Screen(overview)
    assert "asking" in drawn(screen)
    screen.refresh()
    assert ">  task-a" in drawn(screen)
    for key in ("down", "down", "down", "up"):
        screen.press(key)
    assert ">  task-b" in drawn(screen)
    screen.press("why")
    assert "why of task-b" in drawn(screen)
    screen.refresh()
    assert overview.asked == ["task-b", "task-b"]  # it is kept up to date
    screen.press("why")
    assert "why of" not in drawn(screen)


def test_a_list_that_got_shorter_keeps_the_mark_on_a_task(overview: Scripted) -> None:
    """The tasks below the mark may end; one that comes above it does not move it to another."""
    screen = Screen(overview)
    screen.refresh()
    overview.ids.insert(0, "task-new")
    screen.refresh()
    assert ">  task-a" in drawn(screen)
    screen.press("down")
    screen.press("down")
    assert ">  task-c" in drawn(screen)
    del overview.ids[2:]
    screen.refresh()
    assert ">  task-a" in drawn(screen)
    overview.ids.clear()
    screen.refresh()
    screen.press("why")
    assert "no task is under way" in drawn(screen)


def test_a_server_that_is_away_leaves_the_last_frame_with_a_word(overview: Scripted) -> None:
    """What was seen stays; it goes on when the server is back. A refusal ends it."""
    screen = Screen(overview)
    screen.refresh()
    overview.fault = NoServer("listing tasks", "nobody listens there")
    screen.refresh()
    assert "no answer: nobody listens there" in drawn(screen)
    assert "task-a" in drawn(screen)
    overview.fault = None
    screen.refresh()
    assert "no answer" not in drawn(screen)
    overview.fault = CommandError("listing tasks", "the token is not valid", status=401)
    with pytest.raises(CommandError):
        screen.refresh()


def test_more_tasks_than_fit_are_counted_and_the_mark_stays_in_sight(overview: Scripted) -> None:
    """The window follows the mark; what others wrote can't steer the terminal."""
    overview.ids = [f"task-{n:02}" for n in range(30)]
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(frame(overview.look(), selected=20, rows=5))
    assert isinstance(console.file, io.StringIO)
    out = console.file.getvalue()
    assert ">  task-20" in out
    assert "25 more" in out
    assert "task-05" not in out
    assert "alarms late 1 of 3" in out
    assert "\x1b" not in out


def test_a_narrow_terminal_shows_what_is_waited_for_and_what_is_wrong(overview: Scripted) -> None:
    """In eighty columns: fewer of them, each line whole; in a wide one, all of them."""
    found = overview.look()
    name = "task-01m8bhze597tn4c7bpdxtmr7pe"
    found["tasks"][0] |= {"id": name, "why": {"summary": "a node is being chosen", "waited_s": 3.0}}
    found["nodes"] = [
        {"id": name.replace("task", "node"), "provider": "hetzner", "status": "error", "live_workspaces": 0, "slots": 4,
         "heartbeat_age_s": None, "load1": None, "error": {"message": "the account is full"}, "unreachable_since": None}
    ]  # fmt: skip
    lines = {}
    for width in (80, 140):
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(frame(found, look=Look.on(console)))
        assert isinstance(console.file, io.StringIO)
        lines[width] = console.file.getvalue()
        assert max(map(len, lines[width].splitlines())) <= width
        assert "a node is being" in lines[width] and "error" in lines[width] and "the account is f" in lines[width]
    assert "TITLE" in lines[140] and "TITLE" not in lines[80]


def test_a_terminal_without_utf_8_is_drawn_on_with_letters_that_it_has(overview: Scripted) -> None:
    """A letter that it can't show would be written as an escape, six columns wide."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    console = Console(file=out, width=80, color_system=None)
    found = overview.look()
    found["tasks"][0] |= {"why": {"summary": "w" * 99, "waited_s": 3.0}}
    console.print(frame(found, note="why", look=Look.on(console)))
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    assert out.buffer.getvalue().isascii()


def test_waits_are_asked_a_few_at_a_time_and_in_turn(api: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tasks cost no more requests than a few; each has its turn."""
    from taskflow.cli import connection
    from taskflow.settings import Settings

    for _ in range(7):
        api.submit()
    overview = Overview(connection.connect(Settings.from_env()))
    assert overview.look()["alarms"]["asked"] == 5
    assert overview.look()["alarms"]["asked"] == 7
    seen = overview.look()
    assert all(task["why"] for task in seen["tasks"])
    api.submit()
    assert {event["kind"] for event in overview.look()["events"]} >= {"status_changed"}
