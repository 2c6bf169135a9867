"""Looking at tasks, and stopping and repeating them."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import update

from taskflow.db.models import Run, Task
from tests.web.world import World


def test_pages_neither_skip_nor_repeat_while_tasks_are_added(world: World) -> None:
    """Walking the pages shows each task that was there at the start once, newest first, whatever comes meanwhile."""
    expected = []
    for number in range(7):
        expected.append(world.submit(title=f"t{number}")["id"])
        world.clock.advance(1)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = world.call("GET", "/api/tasks", query_string=query).get_json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert len(page["tasks"]) == 2
        world.submit(title="meanwhile")
        world.clock.advance(1)
    assert seen == expected[::-1]


def test_tasks_of_the_same_instant_are_paged_by_id(world: World) -> None:
    """Equal times neither hide a task nor show it twice."""
    made = {world.submit()["id"] for _ in range(5)}
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = world.call("GET", "/api/tasks", query_string=query).get_json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
    assert (len(seen), set(seen)) == (5, made)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!!!!",
        "bnVsbA==",
        "W10=",
        "WzEsMiwzXQ==",
        "eyJhIjoxfQ==",
        "WyJ4IiwieSJd",
        "/////w==",
        "WzEsIlx1MDAwMCJd",
        "WzEsIlx1ZDgwMCJd",
        "WzEse31d",
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(world: World, cursor: str) -> None:
    """A cursor that can't be read is the caller's error and named, never a fault of ours."""
    answer = world.call("GET", "/api/tasks", query_string={"cursor": cursor})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["cursor"])


def test_tasks_are_narrowed_by_status(world: World) -> None:
    """`status` may be repeated or hold several with commas; an unknown one is refused with the known ones."""
    draft, queued = world.submit(start=False)["id"], world.submit()["id"]
    failed = world.submit()
    world.end(failed, "failed")

    def listed(query: str) -> set[str]:
        return {task["id"] for task in world.call("GET", f"/api/tasks?{query}").get_json()["tasks"]}

    assert listed("status=draft") == {draft}
    assert listed("status=draft,failed") == {draft, failed["id"]}
    assert listed("status=draft&status=queued") == {draft, queued}
    assert listed("status=") == {draft, queued, failed["id"]}
    wrong = world.call("GET", "/api/tasks?status=done")
    assert (wrong.status_code, list(wrong.get_json()["error"]["fields"])) == (400, ["status"])


def test_cancelling_asks_the_runner_and_rings(world: World) -> None:
    """202: the request with its reason is recorded and the runner is rung; asking again changes nothing."""
    task = world.submit()
    world.publisher.rung.clear()
    answer = world.call("POST", f"/api/tasks/{task['id']}/cancel", {"reason": "a typo"})
    assert (answer.status_code, answer.get_json()["cancel_requested"]) == (202, True)
    assert answer.get_json()["status"] == "queued"
    assert world.publisher.rung == [task["run_id"]]
    assert world.call("POST", f"/api/tasks/{task['id']}/cancel").status_code == 202
    events = world.call("GET", f"/api/tasks/{task['id']}/events").get_json()["events"]
    asked = [event for event in events if event["kind"] == "cancel_requested"]
    assert [(event["actor"], event["data"]) for event in asked] == [("api:cli", {"reason": "a typo"})]


def test_cancelling_a_draft_is_done_at_once(world: World) -> None:
    """What has no run is cancelled here and now."""
    draft = world.submit(start=False)
    answer = world.call("POST", f"/api/tasks/{draft['id']}/cancel")
    assert (answer.status_code, answer.get_json()["status"]) == (202, "cancelled")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_cancelling_an_ended_task_is_409_with_its_status(world: World, status: str) -> None:
    """Whichever end came first has won; the answer says which."""
    task = world.submit()
    world.end(task, status)
    error = world.call("POST", f"/api/tasks/{task['id']}/cancel").get_json()["error"]
    assert (error["code"], error["detail"]) == ("already_ended", {"status": status})


def test_rerun_starts_the_next_run(world: World) -> None:
    """A failed task runs again as run 2, with nothing of the first one left on it."""
    task = world.submit()
    world.end(task, "failed", {"code": "exit_code", "message": "exit status 1"})
    answer = world.call("POST", f"/api/tasks/{task['id']}/rerun")
    again = answer.get_json()
    assert (answer.status_code, again["status"], again["run_number"]) == (202, "queued", 2)
    assert again["run_id"] != task["run_id"]
    assert again["error"] is None
    assert world.publisher.rung == [task["run_id"], again["run_id"]]
    assert world.call("POST", f"/api/tasks/{task['id']}/rerun").status_code == 409
    assert world.count(Run) == 2


def test_how_long_a_rerun_took_counts_from_the_rerun(world: World) -> None:
    """The task and its line in the list say when its last run was asked for; a draft has none."""
    draft = world.submit(start=False)
    task = world.submit()
    assert (draft["run_created_at"], task["run_created_at"]) == (None, task["created_at"])
    world.end(task, "failed", {"code": "x", "message": "m"})
    world.clock.advance(2)
    again = world.call("POST", f"/api/tasks/{task['id']}/rerun").get_json()
    assert again["run_created_at"] > task["created_at"] == again["created_at"]
    (line,) = (one for one in world.call("GET", "/api/tasks").get_json()["tasks"] if one["id"] == task["id"])
    shown = world.call("GET", f"/api/tasks/{task['id']}").get_json()
    assert line["run_created_at"] == shown["run_created_at"] == again["run_created_at"]


def test_rerun_waits_for_the_last_cleanup(world: World) -> None:
    """A failed task whose run still cleans up is not started over what it still holds."""
    task = world.submit()
    world.end(task, "failed")
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id == task["run_id"]).values(finished_at=None)))
    error = world.call("POST", f"/api/tasks/{task['id']}/rerun").get_json()["error"]
    assert error["code"] == "still_cleaning_up"


@pytest.mark.parametrize(
    ("status", "verb", "allowed", "advice"),
    [
        ("queued", "rerun", "only a task that failed or was cancelled can be run again", "cancel it first"),
        ("draft", "rerun", "only a task that failed or was cancelled can be run again", "run-draft"),
        ("completed", "rerun", "only a task that failed or was cancelled can be run again", "submit it anew"),
        ("cancelled", "run", "only a draft can be started", "taskflow rerun"),
        ("queued", "run", "only a draft can be started", ""),
        ("failed", "cancel", "only a task that has not ended can be cancelled", ""),
    ],
)
def test_what_a_task_is_not_in_the_state_for_is_refused_with_what_it_takes(
    world: World, status: str, verb: str, allowed: str, advice: str
) -> None:
    """The state that it has, those from which it is allowed, and what to do."""
    task = world.submit(start=status != "draft")
    if status in ("completed", "failed", "cancelled"):
        world.end(task, status)
    answer = world.call("POST", f"/api/tasks/{task['id']}/{verb}")
    error = answer.get_json()["error"]
    assert answer.status_code == 409 and f"is {status}" in error["message"] and allowed in error["message"]
    assert advice in error.get("advice", "") and "become" not in error["message"]
    assert error["code"] == ("already_ended" if verb == "cancel" else "illegal_transition")


@pytest.mark.parametrize("verb", ["run", "rerun"])
def test_a_queued_task_is_neither_run_nor_rerun(world: World, verb: str) -> None:
    """409 with the status that stands in the way."""
    task = world.submit()
    answer = world.call("POST", f"/api/tasks/{task['id']}/{verb}")
    assert (answer.status_code, answer.get_json()["error"]["detail"]) == (409, {"status": "queued"})


def test_events_go_on_after_the_last_one_seen(world: World) -> None:
    """`next` of a page is the `after` of the following one, also when nothing is new."""
    task = world.submit()
    world.call("POST", f"/api/tasks/{task['id']}/cancel")
    path = f"/api/tasks/{task['id']}/events"
    first = world.call("GET", f"{path}?limit=1").get_json()
    second = world.call("GET", f"{path}?after={first['next']}").get_json()
    third = world.call("GET", f"{path}?after={second['next']}").get_json()
    assert [event["seq"] for event in first["events"] + second["events"]] == [1, 2]
    assert third == {"events": [], "next": 2}


def test_logs_are_read_as_chunks_or_as_bytes(world: World) -> None:
    """JSON gives base64 chunks; `Accept: text/plain` the bytes themselves with the same position in headers."""
    task = world.submit()
    place = world.place(task)
    pieces = [b"one\n", b"\xff\x00two"]
    for number, piece in enumerate(pieces, 1):
        chunk = {"number": number, "data": base64.b64encode(piece).decode()}
        path = f"/callbacks/workspaces/{place.workspace_id}/sessions/{place.session_id}/logs"
        assert world.call("POST", path, chunk, token=place.workspace_token).status_code == 200
    path = f"/api/tasks/{task['id']}/logs"
    found = world.call("GET", path).get_json()
    assert [base64.b64decode(chunk["data"]) for chunk in found["chunks"]] == pieces
    assert (found["next"], found["ended"]) == (2, False)
    raw = world.call("GET", f"{path}?after=1", headers={"Accept": "text/plain"})
    assert (raw.data, raw.mimetype) == (b"\xff\x00two", "text/plain")
    assert (raw.headers["X-Log-Next"], raw.headers["X-Log-Ended"]) == ("2", "false")
    assert world.call("GET", path, headers={"Accept": "*/*"}).mimetype == "application/json"


def test_logs_of_an_earlier_run_stay_readable(world: World) -> None:
    """After a rerun `run_id` asks for the output of the run before; another task's run shows nothing."""
    task = world.submit()
    place = world.place(task)
    path = f"/callbacks/workspaces/{place.workspace_id}/sessions/{place.session_id}/logs"
    world.call("POST", path, {"number": 1, "data": "b25l"}, token=place.workspace_token)
    world.end(task, "failed")
    world.call("POST", f"/api/tasks/{task['id']}/rerun")
    logs = f"/api/tasks/{task['id']}/logs"
    assert world.call("GET", logs).get_json()["chunks"] == []
    assert len(world.call("GET", f"{logs}?run_id={task['run_id']}").get_json()["chunks"]) == 1
    other = world.submit()
    assert world.call("GET", f"/api/tasks/{other['id']}/logs?run_id={task['run_id']}").get_json()["chunks"] == []


def test_why_says_what_is_waited_for(world: World) -> None:
    """A sentence, the step, since when, and whether somebody works on it."""
    task = world.submit()
    why = world.call("GET", f"/api/tasks/{task['id']}/why").get_json()
    assert (why["step"], why["runner"], why["status"]) == ("node_selection", "alive", "queued")
    assert "node" in why["summary"]
    world.end(task, "failed", {"code": "clone", "message": "git: not found"})
    assert "git: not found" in world.call("GET", f"/api/tasks/{task['id']}/why").get_json()["summary"]


def test_a_node_is_asked_to_go(world: World) -> None:
    """Destroying a node is a request to its runner, which is rung; destroyed nodes are listed on demand."""
    task = world.submit()
    place = world.place(task)
    assert [node["id"] for node in world.call("GET", "/api/nodes").get_json()["nodes"]] == [place.node_id]
    answer = world.call("POST", f"/api/nodes/{place.node_id}/destroy", {"reason": "done"})
    assert (answer.status_code, answer.get_json()["id"]) == (202, place.node_id)
    assert world.call("POST", f"/api/nodes/{place.node_id}/destroy").status_code == 202
    world.destroy(place)
    assert world.call("GET", "/api/nodes").get_json()["nodes"] == []
    assert len(world.call("GET", "/api/nodes?destroyed=true").get_json()["nodes"]) == 1
    assert world.row(Task, task["id"]).status == "queued"
