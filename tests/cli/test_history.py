"""What happened and who waits, asked of the real HTTP API: events, failed attempts, runs of a task, the queue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import methodcaller
from typing import Any

import click
import pytest
from sqlalchemy import insert, update

from taskflow.cli import history
from taskflow.cli.client import Api
from taskflow.cli.transport import Target
from taskflow.db.models import ErrorRow, Event, Run, Task
from tests.cli.conftest import Invoke
from tests.cli.fake_server import END, FakeServer
from tests.cli.test_follow import VirtualClock
from tests.web.world import World


def fail(world: World, run_id: str, step: str, code: str, attempt: int = 1) -> None:
    """An attempt of a step that failed, as the runner stores it."""
    with world.database.read() as tx:
        owner_id = tx.execute(Run.__table__.select().where(Run.id == run_id)).one().owner_id
    values = {
        "owner_id": owner_id, "run_id": run_id, "step": step, "attempt": attempt, "code": code, "retry_in_s": 2.0,
        "at": world.clock.now(), "error": {"code": code, "message": f"it broke\x1b[2J by {code}"},
    }  # fmt: skip
    world.database.write(lambda tx: tx.execute(insert(ErrorRow).values(**values)))


def test_events_of_a_task_a_run_and_a_node_are_listed(api: World, invoke: Invoke) -> None:
    """The newest, in their order; all of them with ``--all``; the same as JSON."""
    task = api.submit()
    assert invoke("cancel", task["id"], "--reason", "enough").exit_code == 0
    lines = invoke("events", task["id"]).stdout.splitlines()
    assert lines[0].split() == ["AT", "WHAT", "STEP", "BY", "SAYS"]
    assert "status_changed" in lines[1] and "cancel_requested" in lines[-1] and "reason: enough" in lines[-1]
    cut = invoke("events", task["id"], "--limit", "1")
    assert (len(cut.stdout.splitlines()), "--all" in cut.stderr) == (2, True)
    kinds = [event["kind"] for event in json.loads(invoke("events", task["id"], "--all", "--json").stdout)["events"]]
    assert kinds[-1] == "cancel_requested" and len(kinds) == len(lines) - 1
    assert "run_started" in invoke("events", api.start()["id"]).stdout
    assert "status_changed" in invoke("events", api.place(api.submit()).node_id).stdout
    for unknown in ("task-none", "run-none", "node-none"):
        assert invoke("events", unknown).exit_code == 4


class Enough(KeyboardInterrupt):
    """Ctrl-C, as soon as that was seen which was waited for."""


def test_what_happens_is_followed_as_it_comes(api: World, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one thing from its last events on, over the server's stream; as JSON an object a line; Ctrl-C ends it."""
    run = api.start()
    lines: list[str] = []

    def write(text: object = "", **_: Any) -> None:
        lines.append(str(text))
        if "run_started" in lines[-1]:
            answer = api.call("POST", f"/api/runs/{run['id']}/cancel", {"reason": "enough"})
            assert answer.status_code == 202
        if "cancel_requested" in lines[-1]:
            raise Enough

    monkeypatch.setattr(click, "echo", write)
    done = invoke("events", run["id"], "--follow")
    assert done.exit_code == 130
    assert [line.split()[2] for line in lines[:2]] == ["run_started", "cancel_requested"]
    lines.clear()
    assert invoke("events", run["id"], "-f", "--json").exit_code == 130
    assert [json.loads(line)["seq"] for line in lines[:2]] == [1, 2]


def test_everything_is_followed_from_now_on(api: World, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before is not shown; each line names what it is about. Without following an id is needed."""
    api.submit()
    lines: list[str] = []
    made: list[str] = []
    stream = Api.stream

    def opened(self: Api, thing_id: str | None, after: str) -> Any:
        found = stream(self, thing_id, after)
        assert found is not None
        yield next(found)  # from here on
        made.append(api.submit()["id"])
        yield from found

    def write(text: object = "", **_: Any) -> None:
        lines.append(str(text))
        if len(lines) == 1:
            raise Enough

    monkeypatch.setattr(Api, "stream", opened)
    monkeypatch.setattr(click, "echo", write)
    assert invoke("events", "-f").exit_code == 130
    assert lines[0].split()[2] == made[0]
    monkeypatch.undo()
    assert invoke("events").exit_code == 2


def test_following_goes_on_where_it_was_after_the_server_was_away(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each event once, and that the server was away is said."""
    clock, seen = VirtualClock(), list[int]()
    client = Api(Target(server.url, server.token), clock=clock)

    def show(event: Mapping[str, Any]) -> None:
        seen.append(event["seq"])
        if event["kind"] == "last":
            raise Enough

    def come_back() -> None:
        server.event("last")
        server.start()

    def break_off() -> object:
        clock.acts = [server.stop, *[lambda: None] * 4, come_back]
        return END

    server.event("first")
    server.acts = [lambda: server.event("second"), break_off]
    with pytest.raises(Enough):
        history.watch(client, "task-1", "0", show, clock)
    assert seen == [1, 2, 3]
    assert "answers again" in capsys.readouterr().err


def test_failed_attempts_are_listed(api: World, invoke: Invoke) -> None:
    """Of everything, or of one task; by step and code; a run of one's own is named by its id."""
    one, other, own = api.submit(), api.submit(), api.start()
    fail(api, one["run_id"], "workspace_ready", "clone")
    fail(api, other["run_id"], "running", "transient", attempt=2)
    fail(api, own["id"], "pay", "declined")
    lines = invoke("errors").stdout.splitlines()
    assert lines[0].split() == ["AT", "SUBJECT", "STEP", "ATTEMPT", "CODE", "AGAIN", "IN", "MESSAGE"]
    assert [subject in line for subject, line in zip((own["id"], other["id"], one["id"]), lines[1:], strict=True)] == [
        True
    ] * 3
    assert "it broke by clone" in lines[3] and "2.0 s" in lines[3]
    assert "clone" not in invoke("errors", other["id"]).stdout
    assert json.loads(invoke("errors", "--step", "pay", "--json").stdout)["errors"][0]["code"] == "declined"
    assert json.loads(invoke("errors", "--code", "clone", "--json").stdout)["errors"][0]["task_id"] == one["id"]
    assert "--all" in invoke("errors", "--limit", "2").stderr
    assert len(invoke("errors", "--all").stdout.splitlines()) == 4
    none = "no failed attempts of steps; what became of tasks: taskflow"
    assert invoke("errors", "--code", "none").stdout == f"{none} list --status failed\n"
    assert invoke("errors", one["id"], "--code", "none").stdout == f"{none} show {one['id']}\n"
    assert invoke("errors", "task-none").exit_code == 4
    assert invoke("errors", own["id"]).exit_code == 2


def test_who_waits_is_listed_in_the_order_of_service(api: World, invoke: Invoke) -> None:
    """Each with the reason; how many wait is said where not all are shown."""
    assert invoke("queue").stdout == "nobody waits\n"
    ids = [api.submit(priority=priority, title=f"t{priority}")["id"] for priority in (0, 5)]
    for task_id in ids:
        run_id = api.row(Task, task_id).run_id
        waits = update(Run).where(Run.id == run_id).values(step="waiting_for_capacity")
        full = update(Task).where(Task.id == task_id).values(placement={"reason": "every node is full"})
        api.database.write(methodcaller("execute", waits))
        api.database.write(methodcaller("execute", full))
    lines = invoke("queue").stdout.splitlines()
    assert lines[0].split() == ["PLACE", "TASK", "PRIORITY", "WAITED", "PROJECT", "WAITS", "FOR"]
    assert (lines[1].split()[:3], lines[2].split()[:3]) == (["1", ids[1], "5"], ["2", ids[0], "0"])
    assert lines[1].endswith("every node is full")
    assert json.loads(invoke("queue", "--json").stdout)["count"] == 2
    assert "2 wait" in invoke("queue", "--limit", "1").stderr


def test_runs_of_a_task_are_listed_and_their_output_is_read(api: World, invoke: Invoke) -> None:
    """The last one first; ``logs --run`` takes its id or its number, and refuses one that is not of this task."""
    task = api.submit()
    api.end(task, "failed", {"code": "exit", "message": "it broke"})
    assert invoke("rerun", task["id"]).exit_code == 0
    lines = invoke("runs", task["id"]).stdout.splitlines()
    assert lines[0].split() == ["RUN", "ID", "BEGAN", "TOOK", "STEP", "HOW", "IT", "ENDED"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "1"]
    assert lines[2].split()[1] == task["run_id"]
    assert lines[1].endswith("it goes on")
    found = json.loads(invoke("runs", task["id"], "--json").stdout)["runs"]
    assert [run["number"] for run in found] == [2, 1]
    for run in ("1", task["run_id"]):
        done = invoke("logs", task["id"], "--run", run)
        assert (done.exit_code, done.stdout) == (0, "")
    for run in ("3", api.submit()["run_id"]):
        assert invoke("logs", task["id"], "--run", run).exit_code == 4
    own = invoke("runs", api.start()["id"])
    assert (own.exit_code, "taskflow list --runs" in own.stderr) == (2, True)


def test_several_are_cancelled_at_once(api: World, invoke: Invoke) -> None:
    """Tasks and runs, each by itself: what is refused is said by its id, ends with 1, and keeps nobody else."""
    one, over, own = api.submit(), api.submit(), api.start()
    api.end(over, "failed")
    done = invoke("cancel", one["id"], over["id"], own["id"], "run-none", "--reason", "enough")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        f"{one['id']}: cancel requested; it is queued",
        f"{own['id']}: cancel requested; it is running",
    ]
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [over["id"], "run-none"]
    assert "is failed already" in done.stderr
    assert json.loads(invoke("show", one["id"], "--json").stdout)["cancel_requested"] is True


def test_several_are_run_again_at_once(api: World, invoke: Invoke) -> None:
    """The outcomes as JSON are those of the API, in the order of the ids; following is for one alone."""
    tasks = [api.submit() for _ in range(2)]
    for task in tasks:
        api.end(task, "failed")
    ids = [task["id"] for task in tasks]
    assert invoke("rerun", *ids, "--follow").exit_code == 2
    done = invoke("rerun", *ids, ids[0], "--json")
    assert done.exit_code == 0, done.output
    outcomes = json.loads(done.stdout)["outcomes"]
    assert [(one["id"], one["status"], one["task"]["run_number"]) for one in outcomes] == [(id, 202, 2) for id in ids]
    refused = invoke("rerun", *ids)
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_more_than_the_api_takes_at_once_are_sent_in_parts(api: World, invoke: Invoke) -> None:
    """A hundred ids a request."""
    done = invoke("cancel", *(f"task-{number}" for number in range(101)), "--json")
    outcomes = json.loads(done.stdout)["outcomes"]
    assert (done.exit_code, len(outcomes), {one["status"] for one in outcomes}) == (1, 101, {404})


def test_what_is_no_id_keeps_no_other_from_its_turn(api: World, invoke: Invoke) -> None:
    """A comma too many between two: that one is refused alone."""
    one, two = api.submit(), api.submit()
    done = invoke("cancel", one["id"] + ",", two["id"])
    assert (done.exit_code, done.stdout) == (1, f"{two['id']}: cancel requested; it is queued\n")
    assert done.stderr.startswith(f"{one['id']},: ")


def test_runs_of_pipelines_are_narrowed_by_pipeline_and_subject(api: World, invoke: Invoke) -> None:
    """Together with ``--runs`` only: tasks have neither."""
    one = api.start(subject="order 1")["id"]
    api.start(subject="order 2")
    found = json.loads(invoke("list", "--runs", "--subject", "order 1", "--json").stdout)["runs"]
    assert [run["id"] for run in found] == [one]
    assert invoke("list", "--runs", "--pipeline", "other").stdout == "no runs\n"
    for option in ("--pipeline", "--subject"):
        refused = invoke("list", option, "x")
        assert (refused.exit_code, option in refused.stderr) == (2, True)


@pytest.mark.parametrize("verb", ["errors", "queue", "runs", "events"])
def test_what_others_wrote_can_not_steer_the_terminal(api: World, invoke: Invoke, verb: str) -> None:
    """Messages come from anywhere."""
    task = api.submit()
    fail(api, task["run_id"], "running", "x")
    api.end(task, "failed", {"code": "x", "message": "\x1b[2Jbad"})
    hostile = update(Event).where(Event.subject_id == task["id"]).values(data={"a": "\x1b[2J"})
    api.database.write(lambda tx: tx.execute(hostile))
    done = invoke(verb, *([task["id"]] if verb in ("runs", "events") else []))
    assert (done.exit_code, "\x1b" in done.stdout) == (0, False)
