"""The pages of one task, one run and one node: where it is, why, and what is allowed now."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import pytest
from sqlalchemy import insert, update

from taskflow.clock import isoformat
from taskflow.db.models import AgentSession, Event, Run, SignalRow, Task
from taskflow.service import lookups
from tests.dashboard.conftest import HOSTILE, See
from tests.web.world import World

pytestmark = pytest.mark.usefixtures("today")


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


def test_where_a_task_runs_is_asked_for_in_a_part_that_is_closed(see: See) -> None:
    """Nothing of it has to be said; each thing is what the API calls it."""
    page = see("/tasks/new")
    asked = {found["name"] for tag, found in page.tags if tag in ("input", "select") and "data-kind" in found}
    resources = {f"resources.{name}" for name in ("provider", "location", "location_policy", "vcpus", "memory_mb")}
    assert resources | {"node_id", "allow_node_fallback", "node_loss_reruns"} <= asked
    assert page.all("option", value="local") and not [found for found in page.all("details") if "open" in found]
    assert "Where it runs" in page.text and page.problems() == []


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


def test_a_draft_is_run_by_its_button_and_names_no_command(world: World, see: See) -> None:
    """What the command line says is for who is there."""
    page = see(f"/tasks/{world.submit(start=False)['id']}")
    assert "Run draft" in page.buttons and "It is a draft" in page.text and "taskflow run-draft" not in page.text
    assert "none yet: it was not started" in page.text


def test_the_output_of_a_task_comes_before_what_is_looked_up(world: World, see: See) -> None:
    """Above it is only what the task waits for, or why it failed, and where the time went."""
    task = world.submit()
    world.place(task)
    headings = [
        text.partition(" run ")[0].strip() for level, text in see(f"/tasks/{task['id']}").headings if level == "h2"
    ]
    assert headings[:6] == ["What it waits for", "Timeline", "Output", "Steps", "Runs", "What was asked"]


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
