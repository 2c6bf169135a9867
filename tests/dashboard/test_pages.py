"""Every page: what it shows, to whom, and that nothing anybody wrote can do anything there."""

from __future__ import annotations

import configparser
import dataclasses
import fnmatch
from datetime import datetime, timezone
from operator import methodcaller
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import insert, update

from taskflow.clock import isoformat
from taskflow.db.models import AgentSession, ErrorRow, Event, Node, OutboxRow, Run, SignalRow, Sweep, SweepBackoff, Task
from taskflow.errors import InfrastructureError
from taskflow.service import lookups
from tests.dashboard.conftest import See
from tests.web.world import World
from web.dashboard import frame, nodes, operations

pytestmark = pytest.mark.usefixtures("today")

PAGES = ("/", "/tasks", "/tasks/new", "/runs", "/runs/new", "/nodes", "/errors", "/usage", "/sweeps", "/settings")
#: What a script sends something for.
_WRITES = {"data-post", "data-bulk-do", "data-pick", "data-submit", "data-opens"}
HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)"> ' " & {{ 7*7 }}"""


@pytest.fixture
def busy(world: World) -> dict[str, str]:
    """Something of everything, with hostile texts wherever somebody else's text is shown: names -> ids."""
    world.submit(title="a draft", start=False)
    failed = world.submit(title=f"failed {HOSTILE}", labels={"l": HOSTILE}, env={"E": HOSTILE}, project="shop")
    world.end(
        failed, "failed", {"code": "exit", "message": f"message {HOSTILE}", "advice": HOSTILE, "detail": {"d": HOSTILE}}
    )
    done = world.submit(title="done", command=["sh", "-c", HOSTILE], setup_command=["echo", HOSTILE])
    world.end(done, "completed")
    running = world.submit(title=f"running {HOSTILE}", priority=3)
    place = world.place(running)
    world.database.write(
        lambda tx: (
            tx.execute(
                update(Task).where(Task.id == done["id"])
                .values(output_branch=HOSTILE, output_commit="c0ffee", changed_files=[HOSTILE], pushed=True, exit_code=0)
            ),
            tx.execute(update(Node).where(Node.id == place.node_id).values(error={"message": HOSTILE}, name=HOSTILE)),
            tx.execute(
                insert(ErrorRow).values(
                    owner_id=world.row(Task, running["id"]).owner_id, run_id=running["run_id"], step="running", attempt=1,
                    code="x", error={"message": HOSTILE}, retry_in_s=1.0, at=world.clock.now(),
                )
            ),
            tx.execute(insert(Sweep).values(name="prune", state={}, last_result={"said": HOSTILE}, failures=0)),
        )
    )  # fmt: skip
    world.call("POST", f"/api/tasks/{running['id']}/cancel", {"reason": HOSTILE})
    own = world.start(subject=HOSTILE)
    return {
        "failed": failed["id"],
        "done": done["id"],
        "running": running["id"],
        "node": place.node_id,
        "run": own["id"],
    }


def _paths(busy: dict[str, str]) -> list[str]:
    tasks = [f"/tasks/{busy[name]}" for name in ("failed", "done", "running")]
    return [
        *PAGES,
        *tasks,
        f"/nodes/{busy['node']}",
        f"/runs/{busy['run']}",
        "/tasks?status=failed&project=shop",
        "/nodes?destroyed=1",
    ]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_when_there_is_nothing_yet(see: See, path: str) -> None:
    """With its title, one heading, and labels; and it says that there is nothing."""
    page = see(path)
    assert page.problems() == []
    assert page.h1 and page.title.endswith(" - taskflow")


def test_every_page_shows_hostile_text_as_text(see: See, busy: dict[str, str]) -> None:
    """Titles, labels, messages, reasons, branches: nothing becomes an element, an attribute or a template."""
    for path in _paths(busy):
        page = see(path)
        assert page.problems() == [], path
        assert "alert(1)</script>" not in page.html and "<img src=x" not in page.html, path
        assert page.html.count("<script") == 2, path
        assert "& 49" not in page.text, path
    shown = {"failed": f"/tasks/{busy['failed']}", "node": f"/nodes/{busy['node']}", "run": f"/runs/{busy['run']}"}
    for name, path in shown.items():
        assert HOSTILE in see(path).text, name


def test_every_page_forbids_what_is_not_a_file_of_ours(see: See, busy: dict[str, str]) -> None:
    """Also pages of errors; the API keeps the policy that allows nothing."""
    answers = [see(path).answer for path in _paths(busy)]
    answers.append(see("/nothing", status=404).answer)
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy == frame.POLICY and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("query", ["/tasks?text=%00", "/tasks?label=a:%00", "/runs?pipeline=%00", "/runs?subject=a%00"])
def test_a_search_that_a_database_would_fail_at_is_refused(see: See, query: str) -> None:
    """As what it is, not as a store that is away."""
    see(query, status=400)


def test_nothing_of_another_owner_is_shown(world: World, see: See, busy: dict[str, str]) -> None:
    """Their task and node do not exist, and no list has them."""
    for path in (f"/tasks/{busy['running']}", f"/nodes/{busy['node']}", f"/runs/{busy['run']}"):
        page = see(path, status=404, token=world.other_token)
        assert page.h1 == "There is nothing here"
    mine = world.submit()
    their_run = world.row(Task, busy["failed"]).run_id
    see(f"/tasks/{mine['id']}?run={their_run}", status=404)
    for path in PAGES:
        page = see(path, token=world.other_token)
        assert not [name for name, found in busy.items() if found in page.html], path
        assert "running <script>" not in page.text


def test_who_only_looks_is_offered_nothing_else(world: World, see: See, busy: dict[str, str]) -> None:
    """A viewer sees no button that writes, and no page of who runs the installation."""
    viewer = world.service.accounts.create_token(owner="ada", name="viewer", role="viewer")["token"]
    paths = _paths(busy)
    for path in ("/tasks/new", "/runs/new", "/sweeps", "/settings"):
        assert see(path, status=403, token=viewer).h1 == "This is not for you"
        paths.remove(path)
    for path in paths:
        page = see(path, token=viewer)
        assert page.all("a", href="/tasks/new") == [] and page.all("a", href="/runs/new") == [], path
        assert not [tag for tag, found in page.tags if _WRITES & found.keys()], path


def test_an_operator_sees_everything_but_the_settings(world: World, see: See) -> None:
    """They are of the whole installation, not of an owner."""
    operator = world.service.accounts.create_token(owner="ada", name="operator", role="operator")["token"]
    assert see("/sweeps", token=operator).all("a", href="/settings") == []
    assert see("/tasks", token=operator).all("a", href="/tasks/new")
    assert see("/settings", status=403, token=operator).h1 == "This is not for you"


def test_a_run_of_ones_own_pipeline_says_where_it_is_and_offers_what_is_allowed(world: World, see: See) -> None:
    """While it is open, cancel; when it failed, the reason and rerun; when its pipeline is gone, that."""
    run = world.start(subject="book 7")
    page = see(f"/runs/{run['id']}")
    assert (page.h1, page.buttons.count("Cancel"), "Rerun" in page.buttons) == ("order book 7", 1, False)
    assert "amount: 5" in page.text and page.problems() == []
    assert f"/runs/{run['id']}" in see("/runs?subject=book 7").html and run["id"] not in see("/runs?subject=8").html
    world.end_run(run, {"code": "declined", "message": "the card was declined"})
    page = see(f"/runs/{run['id']}")
    assert "the card was declined" in page.text and page.buttons.count("Rerun") == 1 and "Cancel" not in page.buttons
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id == run["id"]).values(pipeline="gone")))
    assert "not registered here" in see(f"/runs/{run['id']}").text


def _awaits(world: World, run: dict[str, Any], name: str | None) -> None:
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id == run["id"]).values(awaiting=name)))


def test_a_run_that_waits_for_a_signal_offers_to_send_it(world: World, see: See) -> None:
    """By its name, to whom may write, also where its pipeline is not known; and only as long as it waits."""
    run = world.start(subject="book 7")
    path = f"/runs/{run['id']}"
    assert see(path).all("button", data_opens="signal") == []
    _awaits(world, run, "paid")
    for pipeline in ("order", "gone"):
        world.database.write(methodcaller("execute", update(Run).where(Run.id == run["id"]).values(pipeline=pipeline)))
        page = see(path)
        (button,) = page.all("button", data_opens="signal")
        assert button["data-named"] == "paid" and button["data-to"] == f"/api{path}/signals/paid"
        assert page.all("dialog", id="signal") and page.problems() == []
    assert world.call("POST", button["data-to"], {"approved": True}).get_json() == {"recorded": True}
    viewer = world.service.accounts.create_token(owner="ada", name="viewer", role="viewer")["token"]
    assert see(path, token=viewer).all("button", data_opens="signal") == []
    world.end_run(run)
    assert see(path).all("dialog", id="signal") == []


def test_each_wait_for_a_signal_is_answered_once(world: World, see: See) -> None:
    """Of two people who look at one wait the first one counts; the next wait for the same signal is another one."""
    run = world.start()
    _awaits(world, run, "paid")
    (wait,) = see(f"/runs/{run['id']}").all("button", data_opens="signal")
    first, second = (
        world.call("POST", wait["data-to"], {"by": who}, headers={"Idempotency-Key": wait["data-once"]}) for who in "ab"
    )
    assert (first.status_code, second.status_code) == (200, 409)
    assert second.get_json()["error"]["code"] == "answered"
    assert see(f"/runs/{run['id']}").all("button", data_opens="signal") == []  # until its run took what is there
    taken = update(SignalRow).where(SignalRow.run_id == run["id"]).values(consumed_at=world.clock.now())
    world.database.write(methodcaller("execute", taken))
    (wait,) = see(f"/runs/{run['id']}").all("button", data_opens="signal")
    answer = world.call("POST", wait["data-to"], {"by": "a"}, headers={"Idempotency-Key": wait["data-once"]})
    assert answer.get_json() == {"recorded": True}


def test_the_form_of_a_run_has_a_field_for_each_part_of_its_input(world: World, see: See) -> None:
    """Or one for JSON, if that is wanted; a pipeline that there is not is refused."""
    page = see("/runs/new?pipeline=order")
    assert page.all("input", name="input.amount", data_kind="number") and page.all("input", name="input.note")
    assert page.all("form", data_submit="/api/runs", data_then="/runs/") and page.problems() == []
    assert page.all("textarea") == []
    page = see("/runs/new?pipeline=order&as=json")
    assert page.all("textarea", name="input", data_kind="json") and page.problems() == []
    assert '"amount"' in page.text and not page.all("input", name="input.amount")
    assert see("/runs/new?pipeline=none", status=400).h1 == "This did not work"
    assert see("/runs").all("a", href="/runs/new")


@pytest.mark.parametrize(
    ("name", "offered"), [("failed", {"rerun"}), ("done", set()), ("running", set()), ("draft", {"run", "cancel"})]
)
def test_a_task_offers_what_is_allowed_now(
    world: World, see: See, busy: dict[str, str], name: str, offered: set[str]
) -> None:
    """A task that is cancelled already is not cancelled again; a completed one not rerun."""
    task_id = busy.get(name) or world.submit(start=False)["id"]
    buttons = see(f"/tasks/{task_id}").all("button")
    found = {one["data-post"].rsplit("/", 1)[1] for one in buttons if "data-post" in one}
    assert found == offered


def test_a_rerun_is_not_offered_while_the_last_run_cleans_up(world: World, see: See) -> None:
    """The API would refuse it."""
    task = world.submit()
    world.end(task, "failed")
    assert see(f"/tasks/{task['id']}").all("button", data_post=f"/api/tasks/{task['id']}/rerun")
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id == task["run_id"]).values(finished_at=None)))
    page = see(f"/tasks/{task['id']}")
    assert not page.all("button", data_post=f"/api/tasks/{task['id']}/rerun") and "cleaning up" in page.text


def test_the_first_page_puts_what_needs_attention_first(world: World, see: See, busy: dict[str, str]) -> None:
    """Before any number: what failed, what is not heard of, and which store is not as it has to be."""
    world.database.write(
        lambda tx: tx.execute(
            update(Node).where(Node.id == busy["node"]).values(unreachable_since=world.clock.now(), name="lost-node")
        )
    )
    page = see("/")
    assert page.headings[1][1] == "Needs attention"
    first = page.text[page.text.index("Needs attention") : page.text.index("Ended in each hour")]
    for said in ("migrations", "lost-node", "unreachable", "failed <script>"):
        assert said in first, said


def test_who_waits_for_a_place_is_listed_with_the_nodes(world: World, see: See) -> None:
    """In the order of service, which the API answers too."""
    made = [world.submit(title=f"in line {number}", priority=number) for number in (0, 5)]
    ids = [task["run_id"] for task in made]
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id.in_(ids)).values(step="waiting_for_capacity")))
    page = see("/nodes")
    line = page.text[page.text.index("Waiting for a place") :]
    assert line.index("in line 5") < line.index("in line 0") and page.problems() == []
    assert page.all("a", href=f"/tasks/{made[0]['id']}")


def test_a_calm_installation_says_so(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing failed, every store works, a worker lives and beat starts sweeps in time."""
    checks = {"database": "ok", "worker": "no worker process was seen for 20 s", "beat": "ok"}
    monkeypatch.setattr(world.service.health, "ready", lambda: {"ready": False, "checks": dict(checks)})
    rows = [
        {"name": name, "state": {}, "last_success_at": world.service.now(), "failures": 0, "cursor": ""}
        for name in world.service.health._settings.sweep_intervals()
    ]
    world.database.write(lambda tx: tx.execute(insert(Sweep), rows))
    assert "No worker no worker process was seen for 20 s" in see("/").text
    checks["worker"] = "ok"
    assert "Nothing. Everything works" in see("/").text


def test_a_run_that_failed_needs_attention_and_an_open_one_is_counted(world: World, see: See) -> None:
    """On the first page and on that of errors, as tasks do: with its reason, its link, and where all of them are."""
    world.start(subject="still open")
    assert see("/").all("a", href="/runs?status=running") and "1runs running" in see("/").text
    assert "Nothing failed" in see("/errors").text
    run = world.start(subject="book 7")
    world.end_run(run, {"code": "declined", "message": "the card was declined", "advice": "ask for another"})
    for path in ("/", "/errors"):
        page = see(path)
        assert page.all("a", href=f"/runs/{run['id']}") and page.problems() == [], path
        assert "order book 7" in page.text and "the card was declined" in page.text, path
        assert "Nothing. Everything works" not in page.text and "Nothing failed" not in page.text, path
        assert run["id"] not in see(path, token=world.other_token).html, path
    assert see("/errors").all("button", data_post=f"/api/runs/{run['id']}/rerun")
    assert "1failed in a day" in see("/").text


def test_what_a_sweep_fails_at_is_counted_and_named_to_no_owner(world: World, see: See) -> None:
    """It may be another owner's thing: who runs the installation sees it on the command line."""
    rests: dict[str, Any] = {"sweep": "prune", "failures": 3, "next_at": world.service.now() + 60}
    rests["error"] = {"code": "x", "message": "of ada's node at 10.1.2.3"}
    rows = [{**rests, "item": item} for item in ("task-of-ada-1", "task-of-ada-2")]
    world.database.write(lambda tx: tx.execute(insert(SweepBackoff), rows))
    for token in (world.token, world.other_token):
        page = see("/sweeps", token=token)
        assert "It fails at 2 things: taskflow sweeps names them" in page.text and page.problems() == []
        assert "task-of-ada" not in page.html and "10.1.2.3" not in page.html


def test_a_store_that_fails_is_named_without_the_words_of_its_driver(
    world: World, see: See, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts and users of the stores are nothing for everybody who may look at an owner's tasks."""
    checks = {"database": "connection to db.internal as root refused", "redis": "ok"}
    monkeypatch.setattr(world.service.health, "ready", lambda: {"ready": False, "checks": dict(checks)})
    page = see("/")
    assert "database fails; taskflow doctor says why" in page.text and "Nothing. Everything works" not in page.text
    assert "db.internal" not in page.html


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


def test_a_wrong_address_is_a_page_for_people_and_json_for_programs(world: World, see: See) -> None:
    """The request's id is on it, and nothing of what failed inside."""
    page = see("/tasks?cursor=!!", status=400)
    assert page.answer.headers["X-Request-Id"] in page.text
    assert see("/tasks?status=nonsense", status=400).problems() == []
    answer = world.call("GET", "/api/tasks/none", headers={"Accept": "text/html"})
    assert answer.mimetype == "application/json" and answer.status_code == 404
    assert world.call("GET", "/nothing").mimetype == "application/json"


def test_nobody_sees_a_page_without_signing_in(see: See) -> None:
    """And is led to where that is done."""
    for path in PAGES:
        page = see(path, status=303, token=None)
        assert page.answer.headers["Location"] == "/login?" + urlencode({"next": path}, safe="/")


def test_a_database_that_is_away_is_a_page_too(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that the service is not usable now, without the driver's words."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise InfrastructureError("connection to db.internal refused", detail={"store": "database"})

    monkeypatch.setattr(world.service.tasks, "list", fail)
    page = see("/tasks", status=503)
    assert page.h1 == "Not now" and "db.internal" not in page.html


def test_the_token_against_forged_requests_is_on_every_page(
    see: See, busy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where scripts read it, and in the form that signs out."""
    monkeypatch.setattr(frame, "csrf_token", lambda: "token-of-this-session")
    for path in _paths(busy):
        page = see(path)
        assert page.all("meta", name="csrf-token")[0]["content"] == "token-of-this-session"
        assert page.all("input", name="csrf_token")[0]["value"] == "token-of-this-session"


def test_the_settings_show_no_secret_and_where_each_came_from(world: World, see: See) -> None:
    """Of a secret only whether it is set."""
    page = see("/settings")
    settings = world.service.lookups._settings
    assert settings.secret_key not in page.html and "set, not shown" in page.text
    rows = {row["name"]: row for row in world.service.lookups.settings()}
    assert rows["TASKFLOW_LEASE_S"]["source"] == "environment" and rows["TASKFLOW_LEASE_S"]["value"] == "1"
    assert rows["TASKFLOW_SHARDS"]["source"] == "default"
    assert rows["TASKFLOW_DATABASE_URL"]["value"] == "not set"


def test_runs_are_narrowed_by_what_became_of_them(world: World, see: See) -> None:
    """In the address, as tasks are; the form shows it, and a status that there is not is refused."""
    world.start(subject="still open")
    world.end_run(world.start(subject="gone wrong"), {"code": "declined", "message": "the card was declined"})
    page = see("/runs?status=failed")
    assert "gone wrong" in page.text and "still open" not in page.text
    assert [found["value"] for found in page.all("option") if "selected" in found] == ["failed"]
    page = see("/runs?status=running,waiting")
    assert "still open" in page.text and "gone wrong" not in page.text and page.problems() == []
    assert see("/runs?status=nonsense", status=400).h1 == "This did not work"


def test_an_address_is_shown_without_its_password(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no secret itself, and may hold one."""
    settings = dataclasses.replace(
        world.service.lookups._settings, public_url="https://ada:s3same-s3same@proxy.example"
    )
    monkeypatch.setattr(world.service.lookups, "_settings", settings)
    page = see("/settings")
    assert "https://ada:***@proxy.example" in page.text and "s3same" not in page.html


def test_flower_is_linked_for_admins_where_somebody_says_where_it_is(
    world: World, see: See, busy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From settings, a task and a run; nowhere without its address, and to nobody who may not see the installation."""
    paths = ("/settings", f"/tasks/{busy['running']}", f"/runs/{busy['run']}")
    for path in paths:
        assert not see(path).all("a", rel="noreferrer"), path
    settings = dataclasses.replace(world.service.lookups._settings, flower_url="https://flower.example/")
    monkeypatch.setattr(world.service.lookups, "_settings", settings)
    for path in paths:
        (link,) = [found for found in see(path).all("a") if "flower" in found["href"]]
        assert link["href"] == "https://flower.example/tasks" and link["rel"] == "noreferrer", path
    operator = world.service.accounts.create_token(owner="ada", name="operator", role="operator")["token"]
    for path in paths[1:]:
        assert "flower.example" not in see(path, token=operator).html, path


def test_a_setting_is_a_number_that_people_read(see: See) -> None:
    """Thirty days are no 2.592e+06 seconds."""
    page = see("/settings")
    assert "2592000 s" in page.text and "e+0" not in page.text


def test_a_form_that_its_script_did_not_reach_is_not_sent(see: See) -> None:
    """A browser would put all its fields, secrets too, into an address. The script is what lets its buttons work."""
    page = see("/tasks/new")
    (form,) = [found for found in page.all("form") if "data-submit" in found]
    buttons = page.all("button", name="start")
    assert form["method"] == "post" and len(buttons) == 2 and all("disabled" in button for button in buttons)


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


def test_where_a_task_runs_is_asked_for_in_a_part_that_is_closed(see: See) -> None:
    """Nothing of it has to be said; each thing is what the API calls it."""
    page = see("/tasks/new")
    asked = {found["name"] for tag, found in page.tags if tag in ("input", "select") and "data-kind" in found}
    resources = {f"resources.{name}" for name in ("provider", "location", "location_policy", "vcpus", "memory_mb")}
    assert resources | {"node_id", "allow_node_fallback", "node_loss_reruns"} <= asked
    assert page.all("option", value="local") and not [found for found in page.all("details") if "open" in found]
    assert "Where it runs" in page.text and page.problems() == []


def test_what_a_month_used_is_a_page(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """By provider and project, with the limits in force; the months beside it are a link away, none after this one."""
    now = datetime(2026, 6, 15, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(world.service.usage, "_now", lambda: now)
    place = world.place(world.submit(project="shop"))
    bought = {"price_per_hour": 3.0, "bought_at": now - 1200}
    world.database.write(lambda tx: tx.execute(update(Node).where(Node.id == place.node_id).values(**bought)))
    world.service.usage.set_quota("ada", "shop", {"budget": 12.5})
    page = see("/usage")
    assert page.h1 == "Usage in 2026-06" and "budget a month 12.5" in page.text and page.problems() == []
    assert page.all("a", href="/tasks?project=shop") and "Cost1" in page.text and not page.all("a", rel="next")
    assert page.all("a", rel="prev", href="/usage?month=2026-05")
    page = see("/usage?month=2026-05")
    assert page.all("a", rel="next", href="/usage") and "No node stood in this month" in page.text
    assert see("/usage?month=2026-01").all("a", href="/usage?month=2025-12")
    assert "shop" not in see("/usage", token=world.other_token).text
    assert see("/usage?month=nonsense", status=400).h1 == "This did not work"


def test_of_a_long_history_the_newest_is_shown_and_followed(world: World, see: See) -> None:
    """Of a task, a node and a run: not the first thousand, after which a page would never be done."""
    task = world.submit()
    place, own = world.place(task), world.start(subject="long")
    owner_id = world.row(Task, task["id"]).owner_id
    subject_of = world.row(Run, own["id"]).subject_id
    for kind, subject_id, run_id, path in (
        ("task", task["id"], task["run_id"], f"/tasks/{task['id']}"),
        ("node", place.node_id, None, f"/nodes/{place.node_id}"),
        ("own", subject_of, own["id"], f"/runs/{own['id']}"),
    ):
        rows = [
            {
                "owner_id": owner_id, "subject_kind": kind, "subject_id": subject_id, "seq": seq, "run_id": run_id,
                "kind": "noted", "actor": "test", "data": {"said": f"event-{seq}-"}, "at": 1.0,
            }
            for seq in range(100, 1300)
        ]  # fmt: skip
        world.database.write(lambda tx, rows=rows: tx.execute(insert(Event), rows))  # type: ignore[misc]
        page = see(path)
        live = next(found for found in page.all("div") if found.get("class") == "live")
        assert live["data-after"] == "1299" and "1000 or more, the newest 200" in page.text, path
        assert "event-1299-" in page.text and "event-1099-" not in page.text, path


def test_a_run_that_a_link_names_is_shown_however_old_it_is(
    world: World, see: See, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that ran again and again shows its last runs, and who follows a link to an old one sees that one."""
    monkeypatch.setattr(lookups, "RUNS_MAX", 1)
    task = world.submit()
    world.end(task, "failed")
    world.call("POST", f"/api/tasks/{task['id']}/rerun", {})
    path = f"/tasks/{task['id']}"
    assert not see(path).all("a", href=f"{path}?run={task['run_id']}")
    page = see(f"{path}?run={task['run_id']}")
    (chosen,) = [link for link in page.all("a") if link.get("aria-current") and "run=" in link["href"]]
    assert chosen["href"] == f"{path}?run={task['run_id']}"


def test_a_running_task_says_when_its_command_last_wrote_something(world: World, see: See) -> None:
    """A command that hangs is told from one that works."""
    task = world.submit()
    place = world.place(task)
    world.database.write(lambda tx: tx.execute(update(Run).where(Run.id == task["run_id"]).values(step="running")))
    before = see(f"/tasks/{task['id']}").text
    assert "Last output" in before and "none yet" in before
    at = world.clock.now() - 60.0
    told = update(AgentSession).where(AgentSession.id == place.session_id).values(last_progress_at=at)
    world.database.write(lambda tx: tx.execute(told))
    page = see(f"/tasks/{task['id']}")
    assert page.problems() == [] and "none yet" not in page.text
    assert page.all("time", datetime=str(isoformat(at)))


def test_what_the_agent_of_a_failed_node_logged_last_is_on_its_page(world: World, see: See) -> None:
    """All of it, as it is, folded up."""
    task = world.submit()
    node_id = world.place(task).node_id
    owner_id, said = world.row(Task, task["id"]).owner_id, f"first line\n{HOSTILE}\n" * 50
    told = insert(Event).values(
        owner_id=owner_id, subject_kind="node", subject_id=node_id, seq=90, kind="agent_log", actor="runner",
        data={"log": said}, at=world.clock.now(),
    )  # fmt: skip
    world.database.write(lambda tx: tx.execute(told))
    page = see(f"/nodes/{node_id}")
    assert page.problems() == []
    assert "what its agent logged last" in page.text and said.strip() in page.text
    silent = told.values(seq=91, data={"why": "its agent did not answer"})
    world.database.write(lambda tx: tx.execute(silent))
    page = see(f"/nodes/{node_id}")
    assert page.problems() == [] and "its agent did not answer" in page.text


def test_a_cancelled_task_says_why_and_who_asked(world: World, see: See) -> None:
    """Above everything else, as a failed one says why it failed."""
    task = world.submit()
    world.call("POST", f"/api/tasks/{task['id']}/cancel", {"reason": "a better idea"})
    world.end(task, "cancelled")
    page = see(f"/tasks/{task['id']}")
    assert page.headings[1] == ("h2", "Why it was cancelled") and page.problems() == []
    assert "a better idea" in page.text and "asked for by api:" in page.text


def test_a_task_shows_the_candidates_that_were_refused(world: World, see: See) -> None:
    """Folded away, each with its reason; nothing to unfold where there was no other."""
    task, alone = world.submit(), world.submit()
    rejected = [
        {"node_id": "node-9", "reason": "it is draining"},
        {"provider": "hetzner", "offer": "cx22@fsn1", "reason": "it has 2 vcpus, 8 are needed"},
    ]
    for one, others in ((task, rejected), (alone, [])):
        placement = {"action": "use", "node_id": "node-1", "reason": "a warm node", "rejected": others}
        placed = update(Task).where(Task.id == one["id"]).values(placement=placement)
        world.database.write(methodcaller("execute", placed))
    page = see(f"/tasks/{task['id']}")
    assert page.problems() == []
    assert "node-1: a warm node" in page.text and "2 others were not chosen" in page.text
    assert "not node-9: it is draining" in page.text
    assert "not hetzner cx22@fsn1: it has 2 vcpus, 8 are needed" in page.text
    assert "not chosen" not in see(f"/tasks/{alone['id']}").text


def test_a_part_is_the_page_without_what_surrounds_it(see: See, busy: dict[str, str]) -> None:
    """So an update is small, and no cache takes one for the other."""
    for path in _paths(busy):
        whole, part = see(path), see(path, part=True)
        assert part.h1 == whole.h1 and part.title == whole.title
        assert part.all("header") == [] and len(part.html) < len(whole.html)
        assert part.answer.headers["Vary"] == "X-Part"


def test_files_are_kept_for_ever_under_an_address_of_their_content(world: World, see: See) -> None:
    """Every file that pages name exists; nothing else of the disk can be read."""
    page = see("/")
    named = [found["src"] for found in page.all("script")] + [found["href"] for found in page.all("link")]
    for address in named:
        answer = world.call("GET", address, token=None)
        assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"], address
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" not in world.call("GET", "/static/old/app.css", token=None).headers["Cache-Control"]
    version = named[0].split("/")[2]
    for wrong in ("../frame.py", "..%2fframe.py", "%2e%2e/frame.py", "js/../../frame.py", "frame.py"):
        assert world.call("GET", f"/static/{version}/{wrong}", token=None).status_code == 404


def test_every_file_of_the_dashboard_is_in_the_wheel() -> None:
    """The patterns of setup.cfg match each of them."""
    root = Path(frame.__file__).parent
    config = configparser.ConfigParser()
    config.read(root.parents[1] / "setup.cfg")
    patterns = [one.strip() for one in config["options.package_data"]["web.dashboard"].split(",")]
    found = [path for name in ("templates", "static") for path in (root / name).rglob("*") if path.is_file()]
    files = [path.relative_to(root) for path in found]
    assert len(files) > 20
    assert [path for path in files if not any(_matches(path, pattern) for pattern in patterns)] == []


def _matches(path: Path, pattern: str) -> bool:
    """A star of setuptools stays in its folder."""
    return len(path.parts) == pattern.count("/") + 1 and fnmatch.fnmatch(str(path), pattern)
