"""Narrowing the list of tasks, and pages of everything that grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import insert, update

from taskflow.clock import isoformat
from taskflow.db.models import ErrorRow, OutboxRow, Run, SweepBackoff, Task
from tests.web.world import World


def _listed(world: World, token: str = "", **query: Any) -> set[str]:
    answer = world.call("GET", "/api/tasks", query_string=query, token=token)
    assert answer.status_code == 200, answer.text
    return {task["title"] for task in answer.get_json()["tasks"]}


def _pages(world: World, path: str, name: str, **query: Any) -> list[list[Any]]:
    """Every page of a list, each request taking what the one before said."""
    pages, cursor = [], None
    while True:
        asked = {**query, **({"cursor": cursor} if cursor else {})}
        answer = world.call("GET", path, query_string=asked)
        assert answer.status_code == 200, answer.text
        pages.append(answer.get_json()[name])
        cursor = answer.get_json()["next_cursor"]
        if cursor is None:
            return pages


def test_tasks_are_narrowed_by_their_labels(world: World) -> None:
    """All that are named have to be there with their values, whatever letters they have."""
    odd = {'a"b': "%_'\\", "é": "ü:ö", "$.x": ""}
    world.submit(title="web", labels={"team": "a", "env": "prod"})
    world.submit(title="api", labels={"team": "b", "env": "prod"})
    world.submit(title="odd", labels=odd)
    world.submit(title="none")
    assert _listed(world, label="team:a") == {"web"}
    assert _listed(world, label="env:prod") == {"web", "api"}
    assert _listed(world, label=["env:prod", "team:b"]) == {"api"}
    assert _listed(world, label="team:%") == set()
    for key, value in odd.items():
        assert _listed(world, label=f"{key}:{value}") == {"odd"}
    for wrong in ("team", ":a"):
        answer = world.call("GET", "/api/tasks", query_string={"label": wrong})
        assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (422, ["label.0"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FLAKY", {"mend the flaky test"}),
        ("äpfel", {"Äpfel 100%"}),
        ("ÄPFEL", {"Äpfel 100%"}),
        ("100%", {"Äpfel 100%"}),
        ("%", {"Äpfel 100%"}),
        ("_", {"under_score"}),
        ("/srv/REPO", {"mend the flaky test", "Äpfel 100%", "under_score"}),
        ("elsewhere", {"other"}),
        ("' OR 1=1 --", set()),
        ("\\", set()),
    ],
)
def test_tasks_are_found_by_a_part_of_a_text(world: World, text: str, found: set[str]) -> None:
    """In title, id or repository, in capitals or not; what a database reads as a pattern is a letter here."""
    for title in ("mend the flaky test", "Äpfel 100%", "under_score"):
        world.submit(title=title)
    world.submit(title="other", repository="/elsewhere")
    assert _listed(world, text=text) == found


def test_a_task_is_found_by_its_id(world: World) -> None:
    """The text that people have in their hands."""
    task = world.submit(title="this")
    world.submit(title="another")
    assert _listed(world, text=task["id"].upper()) == {"this"}


def test_tasks_are_narrowed_by_step_node_project_and_time(world: World) -> None:
    """Alone and together; a step is that of an open run, a time is taken with its offset."""
    begun = 1_700_000_000.0
    first = world.submit(title="first", project="p")
    place = world.place(first)
    second = world.submit(title="second", project="p")
    world.submit(title="third", start=False)

    def arrange(tx: Any) -> None:
        tx.execute(update(Run).where(Run.id == second["run_id"]).values(step="running"))
        tx.execute(update(Task).values(created_at=begun + 100))
        tx.execute(update(Task).where(Task.id == first["id"]).values(created_at=begun))

    world.database.write(arrange)
    assert _listed(world, step="running") == {"second"}
    assert _listed(world, step="node_selection") == {"first"}
    assert _listed(world, node=place.node_id) == {"first"}
    assert _listed(world, project="p") == {"first", "second"}
    assert _listed(world, project="") == {"third"}
    assert _listed(world, project="p", step="running", status="queued", text="sec") == {"second"}
    assert _listed(world, project="p", step="running", status="draft") == set()
    between = isoformat(begun + 50)
    assert _listed(world, created_after=between) == {"second", "third"}
    assert _listed(world, created_before=between) == {"first"}
    assert _listed(world, created_after=isoformat(begun), created_before=isoformat(begun + 100)) == {"first"}
    world.end(second, "failed")
    assert _listed(world, step=world.row(Run, second["run_id"]).step) == set(), "its run is over"


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"step": "lost"}, 422, "step"),
        ({"node": "a b"}, 422, "node"),
        ({"text": ""}, 422, "text"),
        ({"text": "x" * 201}, 422, "text"),
        ({"text": "\0"}, 422, "text"),
        ({"created_after": "yesterday"}, 422, "created_after"),
        ({"created_after": "2026-11-26T08:00:00"}, 422, "created_after"),
        ({"lable": "a:b"}, 422, "lable"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_its_name(
    world: World, query: Mapping[str, str], status: int, field: str
) -> None:
    """Also one that is misspelt: it would list everything."""
    answer = world.call("GET", "/api/tasks", query_string=query)
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (status, [field])


def test_no_filter_shows_another_owners_tasks(world: World) -> None:
    """Whatever is asked for, it is asked of the caller's own."""
    task = world.submit(title="mine", labels={"a": "b"}, project="p")
    node = world.place(task).node_id
    for query in (
        {"label": "a:b"}, {"text": "mine"}, {"node": node}, {"project": "p"}, {"step": "node_selection"}, {},
    ):  # fmt: skip
        assert _listed(world, **query) == {"mine"}
        assert _listed(world, token=world.other_token, **query) == set()


def test_pages_of_narrowed_tasks_hold_each_once(world: World) -> None:
    """Also of one instant, and while others are added."""
    made = {world.submit(title=f"p{number}", project="p")["id"] for number in range(5)}
    for _ in range(3):
        world.submit()
    pages = _pages(world, "/api/tasks", "tasks", project="p", limit=2)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {task["id"] for page in pages for task in page} == made


def test_nodes_come_in_pages(world: World) -> None:
    """Newest first, each once, those that are destroyed only when they are asked for."""
    places = [world.place(world.submit()) for _ in range(3)]
    world.destroy(places[0])
    pages = _pages(world, "/api/nodes", "nodes", limit=1, destroyed="true")
    assert {node["id"] for page in pages for node in page} == {place.node_id for place in places}
    assert len(pages) == 3
    assert [len(page) for page in _pages(world, "/api/nodes", "nodes", limit=1)] == [1, 1]


def _fail(world: World, task: Mapping[str, Any], step: str, code: str, attempt: int = 1) -> None:
    error = {"code": code, "message": f"{code} happened", "advice": "mend it", "detail": {"traceback": "secret.py"}}
    values = {
        "owner_id": world.row(Task, task["id"]).owner_id, "run_id": task["run_id"], "step": step, "attempt": attempt,
        "code": code, "error": error, "retry_in_s": 2.0, "at": world.clock.now(),
    }  # fmt: skip
    world.database.write(lambda tx: tx.execute(insert(ErrorRow).values(**values)))


def test_failed_attempts_are_listed_with_their_cause(world: World) -> None:
    """Of everything, or of one task; newest first, in pages; what is inside of the code is not told."""
    one, other = world.submit(), world.submit()
    for attempt in (1, 2):
        _fail(world, one, "workspace_ready", "clone", attempt)
    _fail(world, other, "running", "transient")
    pages = _pages(world, "/api/errors", "errors", limit=2)
    found = [error for page in pages for error in page]
    assert [(error["task_id"], error["attempt"]) for error in found] == [
        (other["id"], 1), (one["id"], 2), (one["id"], 1),
    ]  # fmt: skip
    assert found[1] == {
        "id": found[1]["id"], "subject_kind": "task", "subject_id": one["id"], "task_id": one["id"], "title": one["title"],
        "pipeline": "agent_task", "run_id": one["run_id"],
        "run_number": 1, "step": "workspace_ready", "attempt": 2, "code": "clone", "message": "clone happened",
        "advice": "mend it", "retry_in_s": 2.0, "at": isoformat(world.clock.now()),
    }  # fmt: skip
    assert len({error["id"] for error in found}) == 3
    of_one = _pages(world, f"/api/tasks/{one['id']}/errors", "errors")
    assert [error["attempt"] for error in of_one[0]] == [2, 1]
    assert _pages(world, "/api/errors", "errors", code="transient") == [[found[0]]]
    assert _pages(world, "/api/errors", "errors", step="workspace_ready") == [found[1:]]
    stranger = world.call("GET", "/api/errors", token=world.other_token)
    assert stranger.get_json() == {"errors": [], "next_cursor": None}


def test_failed_attempts_of_own_runs_name_their_pipeline_and_run(world: World) -> None:
    """The id of what they are about tells nobody anything; its name does."""
    run = world.start(subject="order 7")
    error = {"code": "declined", "message": "no"}
    owner_id = world.service.accounts.authenticate(world.token, "api").owner_id
    values = {"owner_id": owner_id, "run_id": run["id"], "step": "paid", "attempt": 1, "code": "declined", "at": 1.0}
    world.database.write(lambda tx: tx.execute(insert(ErrorRow).values(**values, error=error)))
    ((found,),) = _pages(world, "/api/errors", "errors")
    assert (found["subject_kind"], found["task_id"], found["title"]) == ("own", None, "order 7")
    assert (found["pipeline"], found["run_id"], found["run_number"]) == ("order", run["id"], 1)


def test_runs_are_listed_with_their_steps(world: World) -> None:
    """The last one first, each with its own steps, result and error; an open one says where it stands."""
    task = world.submit()
    world.end(task, "failed", {"code": "exit_code", "message": "1"})
    three_later = update(Run).values(finished_at=Run.created_at + 3)
    world.database.write(lambda tx: tx.execute(three_later))
    again = world.call("POST", f"/api/tasks/{task['id']}/rerun").get_json()
    first, second = _pages(world, f"/api/tasks/{task['id']}/runs", "runs", limit=1)
    assert [(one["id"], one["number"]) for one in (*first, *second)] == [(again["run_id"], 2), (task["run_id"], 1)]
    (open_step,) = first[0]["steps"]
    assert (open_step["step"], open_step["left_at"], open_step["duration_s"]) == ("node_selection", None, None)
    assert (first[0]["finished_at"], first[0]["duration_s"], second[0]["duration_s"]) == (None, None, 3.0)
    stranger = world.call("GET", f"/api/tasks/{task['id']}/runs", token=world.other_token)
    assert stranger.status_code == 404


@pytest.mark.parametrize(
    "path", ["/api/nodes", "/api/errors", "/api/queue", "/api/tasks/{}/runs", "/api/tasks/{}/errors"]
)
@pytest.mark.parametrize(
    "cursor", ["x~", "bnVsbA==", "W10=", "WzEsMiwzXQ==", "WyJcdTAwMDAiXQ==", "W05hTl0=", "WzFlNDAwXQ=="]
)
def test_a_foreign_cursor_is_refused_by_every_list(world: World, path: str, cursor: str) -> None:
    """And never a fault of ours, or of a database."""
    task = world.submit()
    answer = world.call("GET", path.format(task["id"]), query_string={"cursor": cursor})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["cursor"])


def test_who_waits_is_listed_in_the_order_of_service(world: World) -> None:
    """By rank; with the reason; who was given a place or is being cancelled is not in the line any more."""
    made = [world.submit(title=str(number), priority=priority) for number, priority in enumerate((0, 0, 5, 0, 0))]

    def wait(tx: Any) -> None:
        now = world.service.now()
        for number, task in enumerate(made):
            waits = {"step": "waiting_for_capacity", "created_at": 1000.0 + number, "step_entered_at": now - 30}
            tx.execute(update(Run).where(Run.id == task["run_id"]).values(**waits))
            tx.execute(update(Task).where(Task.id == task["id"]).values(placement={"reason": "no node has room"}))
        tx.execute(update(Task).where(Task.id == made[1]["id"]).values(node_id="node-1"))
        tx.execute(update(Run).where(Run.id == made[3]["run_id"]).values(cancel_requested_at=1.0))

    world.database.write(wait)
    pages = _pages(world, "/api/queue", "waiting", limit=2)
    found = [one for page in pages for one in page]
    assert [(one["place"], one["title"]) for one in found] == [(1, "2"), (2, "0"), (3, "4")]
    assert (found[0]["reason"], found[0]["waited_s"], found[0]["priority"]) == (
        "no node has room",
        pytest.approx(30, abs=5),
        5,
    )
    assert world.call("GET", "/api/queue").get_json()["count"] == 5
    assert world.call("GET", "/api/queue", token=world.other_token).get_json()["waiting"] == []


def test_promises_that_fail_are_shown_to_whom_they_were_made(world: World) -> None:
    """With why; how many fail is said to everybody, and what is the installation's to nobody but who runs it."""
    task = world.submit()
    owner_id = world.row(Task, task["id"]).owner_id
    row = {"created_at": 1.0, "next_at": 9e9, "attempts": 4}
    error = {"code": "unexpected", "message": "it broke", "detail": {"traceback": "deep"}}
    mine = {"kind": "rerun_task", "payload": {"task_id": task["id"]}, "owner_id": owner_id, "error": error}
    its = {"kind": "provider_changed", "payload": {"provider": "cloud"}, "owner_id": None, "error": error}
    world.database.write(lambda tx: tx.execute(insert(OutboxRow), [{**row, **mine}, {**row, **its}]))
    found = world.call("GET", "/api/sweeps").get_json()
    assert [(one["kind"], one["task_id"], one["attempts"], one["message"]) for one in found["promises"]] == [
        ("rerun_task", task["id"], 4, "it broke")
    ]
    assert "deep" not in str(found)
    assert world.call("GET", "/api/sweeps", token=world.other_token).get_json()["promises"] == []
    assert {one["name"]: one["failing"] for one in found["sweeps"]}["outbox"] == 2
    by_name = {one["name"]: one["failing"] for one in world.service.health.sweeps()}
    assert {one["item"] for one in by_name["outbox"]} == {f"rerun_task {task['id']}", "provider_changed cloud"}


def test_sweeps_are_shown_without_what_they_fail_at(world: World) -> None:
    """They are of the whole installation: an item may be another owner's."""
    found = world.call("GET", "/api/sweeps").get_json()["sweeps"]
    assert {one["name"] for one in found} == set(world.service.health._settings.sweep_intervals())
    assert all(one["failing"] == 0 and one["state"] == "new" for one in found)
    error = {"code": "x", "message": "no"}
    rows = [{"sweep": "prune", "item": f"task-{n}", "failures": 1, "next_at": 9e9, "error": error} for n in range(30)]
    world.database.write(lambda tx: tx.execute(insert(SweepBackoff), rows))
    found = world.call("GET", "/api/sweeps").get_json()["sweeps"]
    assert {one["name"]: one["failing"] for one in found}["prune"] == 30
