"""Pages that list: filters, pages of a long list, and that nothing in it hides or is left out."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from sqlalchemy import insert, update

from taskflow.db.models import ErrorRow, Node, OutboxRow, Run, Task, Workspace
from tests.dashboard.conftest import See
from tests.web.world import World
from web.dashboard import nodes, operations

pytestmark = pytest.mark.usefixtures("today")


def test_a_task_that_ran_again_took_as_long_as_its_last_run(world: World, see: See) -> None:
    """The list counts from when that run was asked for, not from the task's making."""
    task = world.submit()
    world.end(task, "failed", {"code": "x", "message": "m"})
    ended = world.row(Task, task["id"]).completed_at
    world.database.write(
        lambda tx: (
            tx.execute(update(Task).where(Task.id == task["id"]).values(created_at=ended - 7200)),
            tx.execute(update(Run).where(Run.id == task["run_id"]).values(created_at=ended - 3)),
        )
    )
    text = see("/tasks").text
    assert "3.0 s" in text and "2 h" not in text


def test_what_is_reserved_on_a_node_stands_beside_its_slots(world: World, see: See) -> None:
    """A node with free slots and no free core is full for who asks for one."""
    place = world.place(world.submit())
    world.database.write(
        lambda tx: (
            tx.execute(update(Node).where(Node.id == place.node_id).values(vcpus=2.0, memory_mb=4000)),
            tx.execute(update(Workspace).where(Workspace.id == place.workspace_id).values(vcpus=2.0, memory_mb=500)),
        )
    )
    assert "2 of 2 vCPU reserved" in see("/nodes").text
    assert "2 of 2 vCPU, 500 of 4000 MB" in see(f"/nodes/{place.node_id}").text


@pytest.mark.parametrize("query", ["/tasks?text=%00", "/tasks?label=a:%00", "/runs?pipeline=%00", "/runs?subject=a%00"])
def test_a_search_that_a_database_would_fail_at_is_refused(see: See, query: str) -> None:
    """As what it is, not as a store that is away."""
    see(query, status=400)


def test_who_waits_for_a_place_is_listed_with_the_nodes(world: World, see: See) -> None:
    """In the order of service, which the API answers too."""
    made = [world.submit(title=f"in line {number}", priority=number) for number in (0, 5)]
    ids = [task["run_id"] for task in made]
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id.in_(ids)).values(step="waiting_for_capacity")))
    page = see("/nodes")
    line = page.text[page.text.index("Waiting for a place") :]
    assert line.index("in line 5") < line.index("in line 0") and page.problems() == []
    assert page.all("a", href=f"/tasks/{made[0]['id']}")


def test_the_filter_of_the_list_is_in_its_address(world: World, see: See) -> None:
    """It can be bookmarked and sent, the form shows it, and the next page keeps it."""
    for number in range(53):
        world.submit(title=f"web {number}", project="web")
    world.submit(title="other", project="api")
    page = see("/tasks?project=web&status=queued,delegated,in_progress")
    assert "other" not in page.text and page.all("input", name="project")[0]["value"] == "web"
    (following,) = page.all("a", rel="next")
    older = see(following["href"])
    assert len(older.all("input", data_pick="queued")) == 3 and older.all("a", rel="next") == []
    assert older.all("a", href="/tasks?project=web&status=queued%2Cdelegated%2Cin_progress") or "Newest" in older.text
    assert "No task matches" in see("/tasks?project=none").text


def test_runs_are_narrowed_by_what_became_of_them(world: World, see: See) -> None:
    """In the address, as tasks are; the form shows it, and a status that there is not is refused."""
    world.start(subject="still open")
    world.end_run(world.start(subject="gone wrong"), {"code": "declined", "message": "the card was declined"})
    page = see("/runs?status=failed")
    assert "gone wrong" in page.text and "still open" not in page.text
    assert [found["value"] for found in page.all("option") if "selected" in found] == ["failed"]
    page = see("/runs?status=running,waiting")
    assert "still open" in page.text and "gone wrong" not in page.text and page.problems() == []
    page = see("/runs?status=nonsense", status=400)
    assert page.h1 == "Runs" and "one of running" in page.text and page.problems() == []


@pytest.mark.parametrize("written", ["team=web:1", "team:web:1"])
def test_a_label_is_looked_for_as_it_is_written_anywhere(world: World, see: See, written: str) -> None:
    """With = as on the command line and in the form, with : as in the API; what follows is its value."""
    world.submit(title="the labelled one", labels={"team": "web:1"})
    world.submit(title="the other one", labels={"team": "web"})
    page = see("/tasks?" + urlencode({"label": written}))
    assert "the labelled one" in page.text and "the other one" not in page.text


@pytest.mark.parametrize(
    ("name", "value", "says"), [("label", "web", "key=value"), ("status", "x", "one of"), ("step", "x", "one of")]
)
def test_a_wrong_filter_is_said_beside_its_field(see: See, name: str, value: str, says: str) -> None:
    """On the list, where it can be corrected; it is no list that follows events, for its address is refused."""
    page = see(f"/tasks?{name}={value}", status=400)
    (wrong,) = page.all("span", id=f"filter-{name}-wrong")
    assert wrong["role"] == "alert" and says in page.text and page.h1 == "Tasks" and page.problems() == []
    field = next(found for _, found in page.tags if found.get("id") == f"filter-{name}")
    assert field["aria-invalid"] == "true" and field["aria-describedby"] == wrong["id"]
    assert page.all("div", data_stream="/api/events") == []


def test_runs_about_nothing_are_told_apart(world: World, see: See) -> None:
    """By the end of their ids, as nodes are."""
    made = [world.start()["id"] for _ in range(2)]
    world.start(subject="book 7")
    text = see("/runs").text
    assert "order book 7" in text and all(f"order {one[-6:]}" in text for one in made)


def test_a_failed_attempt_leads_to_what_it_was_of(world: World, see: See) -> None:
    """By the name people know: of a node its own, of a run its pipeline and what it is about."""
    task = world.submit()
    place, own = world.place(task), world.start(subject="book 9")
    node_run = world.row(Node, place.node_id).run_id
    owner_id = world.row(Task, task["id"]).owner_id
    rows = [
        {
            "owner_id": owner_id,
            "run_id": run_id,
            "step": "s",
            "attempt": 1,
            "code": "x",
            "error": {"message": "no"},
            "at": 1.0,
        }
        for run_id in (node_run, own["id"])
    ]
    world.database.write(
        lambda tx: (
            tx.execute(update(Node).where(Node.id == place.node_id).values(name="build-7")),
            tx.execute(insert(ErrorRow), rows),
        )
    )
    page = see("/errors")
    assert page.all("a", href=f"/nodes/{place.node_id}") and page.all("a", href=f"/runs/{own['id']}")
    assert "build-7" in page.text and "order book 9" in page.text


def test_a_promise_that_fails_is_shown_to_its_owner_with_why(world: World, see: See) -> None:
    """A task that was to run again and does not: nobody would look for it in a log. A stranger sees nothing of it."""
    task = world.submit(title="lost")
    assert "Promises that fail" not in see("/errors").text
    values = {
        "kind": "rerun_task", "payload": {"task_id": task["id"]}, "owner_id": world.row(Task, task["id"]).owner_id,
        "created_at": 1.0, "next_at": 9e9, "attempts": 4, "error": {"code": "unexpected", "message": "<it> broke"},
    }  # fmt: skip
    world.database.write(lambda tx: tx.execute(insert(OutboxRow), values))
    page = see("/errors")
    assert "Promises that fail" in page.text and "<it> broke" in page.text and "unexpected" in page.text
    assert page.all("a", href=f"/tasks/{task['id']}")
    assert "Promises that fail" not in see("/errors", token=world.other_token).text


def test_what_failed_is_in_the_order_of_its_ends_and_says_whether_it_was_tried_again(world: World, see: See) -> None:
    """Also where what began later ended first; an attempt after which nothing came is not called tried again."""
    first, second = world.submit(title="began first"), world.submit(title="began second")
    for task in (second, first):
        world.end(task, "failed", {"code": "exit", "message": "no"})
        world.clock.advance(60.0)
    owner_id = world.row(Task, first["id"]).owner_id
    common = {"owner_id": owner_id, "step": "s", "code": "x", "error": {"message": "no"}, "at": 1.0, "attempt": 1}
    rows = [
        {**common, "run_id": first["run_id"], "retry_in_s": 2.5},
        {**common, "run_id": second["run_id"], "retry_in_s": None},
    ]
    world.database.write(lambda tx: tx.execute(insert(ErrorRow), rows))
    text = see("/errors").text
    failed, attempts = text[: text.index("Failed attempts")], text[text.index("Failed attempts") :]
    assert failed.index("began first") < failed.index("began second")
    second_at, first_at = attempts.index("began second"), attempts.index("began first")
    assert "given up: not tried again" in attempts[second_at:first_at]
    assert "to be tried again after 2.5 s" in attempts[first_at:] and "is tried again" not in attempts


def test_what_fails_again_and_again_hides_nothing_else(world: World, see: See) -> None:
    """It is one line, with how many more there are."""
    rare, often = world.submit(title="fails once"), world.submit(title="fails always")
    owner_id = world.row(Task, rare["id"]).owner_id
    common = {"owner_id": owner_id, "step": "s", "code": "x", "error": {"message": "no"}, "at": 1.0}
    rows = [{**common, "run_id": rare["run_id"], "attempt": 1}]
    rows += [{**common, "run_id": often["run_id"], "attempt": number} for number in range(1, 101)]
    world.database.write(lambda tx: tx.execute(insert(ErrorRow), rows))
    page = see("/errors")
    (link,) = page.all("a", href=f"/tasks/{often['id']}")
    assert link and page.all("a", href=f"/tasks/{rare['id']}") and "and 99 more like it lately" in page.text


def test_a_long_list_of_nodes_has_pages(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that are gone, and the line of who waits has pages of its own; one keeps its place in the other."""
    monkeypatch.setattr(nodes, "PAGE_ROWS", 2)
    made = [world.submit(title=f"in line {number}") for number in range(3)]
    ids = [task["run_id"] for task in made]
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id.in_(ids)).values(step="waiting_for_capacity")))
    places = [world.place(world.submit()) for _ in range(3)]
    world.destroy(places[0])
    assert len(see("/nodes").all("a", rel="next")) == 1  # of the line: two nodes are one page
    page = see("/nodes?destroyed=1")
    older, further = (found["href"] for found in page.all("a", rel="next"))
    assert f"/nodes/{places[0].node_id}" not in page.html and "in line 2" not in page.text and page.problems() == []
    page = see(older)
    assert f"/nodes/{places[0].node_id}" in page.html and f"/nodes/{places[2].node_id}" not in page.html
    assert page.all("a", href="/nodes?destroyed=1") and "in line 0" in page.text and page.problems() == []
    page = see(further)
    assert "in line 2" in page.text and "in line 0" not in page.text and "destroyed=1" in further
    assert page.all("a", href="/nodes?destroyed=1#queue")
    assert see("/nodes?cursor=!!", status=400).h1 == see("/nodes?line=!!", status=400).h1 == "This did not work"


def test_older_failed_attempts_are_found_and_none_is_left_out(
    world: World, see: See, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page ends where its last row is full; the next begins after it."""
    monkeypatch.setattr(operations, "_ROWS", 2)
    made = [world.submit(title=f"fails {number}") for number in range(5)]
    owner_id = world.row(Task, made[0]["id"]).owner_id
    common = {"owner_id": owner_id, "step": "s", "code": "x", "error": {"message": "no"}, "at": 1.0, "attempt": 1}
    rows = [{**common, "run_id": task["run_id"]} for task in made for _ in range(3)]
    world.database.write(lambda tx: tx.execute(insert(ErrorRow), rows))
    path, seen = "/errors", []
    for _ in range(3):
        page = see(path)
        seen += [task["title"] for task in reversed(made) if page.all("a", href=f"/tasks/{task['id']}")]
        assert page.text.count("and 2 more like it lately") == len(page.all("td", data_label="attempt"))
        assert bool(page.all("a", href="/errors#attempts")) == (path != "/errors") and page.problems() == []
        path = next((found["href"] for found in page.all("a", rel="next")), "")
    assert seen == [f"fails {number}" for number in (4, 3, 2, 1, 0)] and path == ""
