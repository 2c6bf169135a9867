"""The other commands on tasks and nodes, against the real HTTP API, and what their output looks like."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer, make_node
from tests.web.world import World


def test_a_task_is_submitted_listed_shown_and_cancelled(api: World, invoke: Invoke) -> None:
    """One task through the commands; none of them prints the token."""
    submitted = invoke("submit", "--repo", "/srv/none", "--title", "a title", "--label", "k=v", "--", "make", "x y")
    task_id = submitted.stdout.strip()
    assert submitted.exit_code == 0, submitted.output
    listed, shown, why = invoke("list"), invoke("show", task_id), invoke("why", task_id)
    assert task_id in listed.stdout
    assert "a title" in listed.stdout
    assert "make 'x y'" in shown.stdout
    assert "k=v" in shown.stdout
    assert why.stdout.splitlines()[0].startswith("a node is being chosen")
    assert "node_selection" in why.stdout
    cancelled = invoke("cancel", task_id, "--reason", "enough")
    assert cancelled.stdout == f"{task_id}: cancel requested; it is queued\n"
    assert not any(api.token in one.output for one in (submitted, listed, shown, why, cancelled))


def test_a_provider_that_there_is_not_is_refused_by_its_option(api: World, invoke: Invoke) -> None:
    """Before anything is made, with those that there are, and as a mistake in what was typed."""
    done = invoke("submit", "--repo", "/srv/none", "--provider", "awz", "--", "true")
    assert done.exit_code == 2 and "no provider awz; there is: local" in done.stderr
    assert "--provider: one of local" in done.stderr
    assert invoke("list").stdout == "no tasks\n"


@pytest.mark.parametrize("argv", [["list"], ["show"], ["why"], ["cancel"], ["nodes", "list"]])
def test_json_is_json(api: World, invoke: Invoke, argv: list[str]) -> None:
    """With ``--json`` the output is one document."""
    task_id = api.submit()["id"]
    ids = [task_id] if argv[0] in ("show", "why", "cancel") else []
    done = invoke(*argv, *ids, "--json")
    assert done.exit_code == 0, done.output
    assert isinstance(json.loads(done.stdout), dict)


def test_a_draft_waits_for_its_start(api: World, invoke: Invoke) -> None:
    """``--draft`` makes one, ``why`` says what it waits for, ``run-draft`` starts it, once."""
    task_id = invoke("submit", "--draft", "--repo", "/srv/none", "--", "true").stdout.strip()
    assert f"taskflow run-draft {task_id}" in invoke("why", task_id).stdout
    assert "draft" in invoke("show", "-f", task_id).stdout  # nothing to follow: it does not hang
    assert invoke("run-draft", task_id).stdout == f"{task_id}: run 1 is queued\n"
    assert invoke("run-draft", task_id).exit_code == 1


def test_a_failed_task_is_run_again(api: World, invoke: Invoke) -> None:
    """``rerun`` says which run it is; of a task that goes on it says why not."""
    task = api.submit()
    refused = invoke("rerun", task["id"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: running the task again (POST ")
    api.end(task, "failed", {"code": "x", "message": "it broke"})
    assert "it broke" in invoke("show", task["id"]).stdout
    assert invoke("rerun", task["id"]).stdout == f"{task['id']}: run 2 is queued\n"


def test_a_task_that_ended_can_not_be_cancelled(api: World, invoke: Invoke) -> None:
    """The status that stands in the way is named."""
    task = api.submit()
    api.end(task, "failed")
    done = invoke("cancel", task["id"])
    assert done.exit_code == 1
    assert "failed already" in done.stderr


def test_unknown_ids_are_exit_code_4(api: World, invoke: Invoke) -> None:
    """Tasks and nodes that do not exist, or that belong to somebody else."""
    assert invoke("show", "task-none").exit_code == 4
    assert invoke("nodes", "destroy", "node-none").exit_code == 4
    assert invoke("show", "../../healthz").exit_code == 4  # an id is never a path


def test_the_servers_field_errors_are_shown_by_option(api: World, invoke: Invoke) -> None:
    """A branch that git would refuse is refused under ``--branch``."""
    done = invoke("submit", "--repo", "/srv/none", "--branch", "a..b", "--", "true")
    assert done.exit_code == 2
    assert "  --branch: " in done.stderr


def test_lists_are_cut_and_filtered(api: World, invoke: Invoke) -> None:
    """``--limit`` says that there is more, ``--all`` shows it, ``--status`` filters, and an unknown one is refused."""
    ids = [api.submit()["id"] for _ in range(3)]
    cut = invoke("list", "--limit", "2")
    assert "--all" in cut.stderr
    assert len(json.loads(invoke("list", "--limit", "2", "--json").stdout)["tasks"]) == 2
    assert {task["id"] for task in json.loads(invoke("list", "--all", "--json").stdout)["tasks"]} == set(ids)
    assert invoke("list", "--status", "failed").stdout == "no tasks\n"
    assert invoke("list", "--status", "nonsense").exit_code == 2


def test_runs_are_listed_by_their_status(api: World, invoke: Invoke) -> None:
    """A word that only tasks have, and what only narrows tasks, is refused by the name of the option."""
    open_one, ended = api.start()["id"], api.start()
    api.end_run(ended)
    assert open_one in invoke("list", "--runs", "--status", "running", "--status", "waiting").stdout
    assert json.loads(invoke("list", "--runs", "--status", "failed", "--all", "--json").stdout)["runs"] == []
    listed = json.loads(invoke("list", "--runs", "--status", "completed", "--json").stdout)["runs"]
    assert [run["id"] for run in listed] == [ended["id"]]
    for argv, option in (
        (("--runs", "--status", "queued"), "--status"),
        (("--status", "waiting"), "--status"),
        (("--runs", "--project", "web"), "--runs"),
    ):
        refused = invoke("list", *argv)
        assert (refused.exit_code, option in refused.stderr) == (2, True)


def test_nodes_are_listed_and_destroyed(connected: FakeServer, invoke: Invoke) -> None:
    """A table of nodes, also without a subcommand; ``destroy`` asks for one of them."""
    connected.nodes = [make_node("node-1")]
    for argv in (["nodes"], ["nodes", "list"]):
        out = invoke(*argv).stdout
        assert "node-1" in out
        assert "0/4" in out
    assert "destroy requested" in invoke("nodes", "destroy", "node-1", "--reason", "old").stdout
    assert connected.asked("POST", "/destroy")[0].body == {"reason": "old"}


def test_what_others_wrote_can_not_steer_the_terminal(connected: FakeServer, invoke: Invoke) -> None:
    """Titles, messages and names of files come from anywhere."""
    connected.task.update(title="\x1b]0;owned\x07t\nitle", status="failed", error={"message": "\x1b[2Jbad"})
    for argv in (["list"], ["show", "task-1"]):
        assert "\x1b" not in invoke(*argv).stdout
    assert len(invoke("list").stdout.splitlines()) == 2


def test_a_node_is_ordered_by_hand_and_let_go(api: World, invoke: Invoke) -> None:
    """Its id is printed; drain and destroy say what was asked for; what nobody offers is wrong usage."""
    ordered = invoke("nodes", "add", "--provider", "local")
    assert ordered.exit_code == 0, ordered.output
    node_id = ordered.stdout.split(":")[0]
    assert json.loads(invoke("nodes", "show", node_id, "--json").stdout)["kept"] is True
    assert invoke("nodes", "drain", node_id).stdout.startswith(f"{node_id}: drain requested")
    assert invoke("nodes", "destroy", node_id, "--force").stdout.startswith(f"{node_id}: destroy requested")
    assert "was destroyed by api:" in json.loads(invoke("nodes", "show", node_id, "--json").stdout)["error"]["message"]
    assert invoke("nodes", "add", "--provider", "nobody").exit_code == 2
    assert invoke("nodes", "add").exit_code == 2


def test_a_node_is_shown_with_its_last_events(connected: FakeServer, invoke: Invoke) -> None:
    """Twenty of them at most, the newest last, over as many pages as there are; who asked for what, and why."""
    connected.nodes = [make_node("node-1")]
    for number in range(1500):
        connected.event("status_changed", to=f"number {number}")
    connected.event("drain_requested", reason="too\x1b[2J old")
    shown = invoke("nodes", "show", "node-1").stdout
    _, _, history = shown.partition("last 20 of 1501 events\n")
    lines = history.splitlines()
    assert len(lines) == 21
    assert lines[0].split() == ["AT", "WHAT", "STEP", "BY", "SAYS"]
    assert "to: number 1481" in lines[1]
    assert lines[-1].split() == ["2026-01-01", "00:00:00Z", "drain_requested", "-", "runner", "reason:", "too", "old"]
    as_json = json.loads(invoke("nodes", "show", "node-1", "--json").stdout)
    assert [event["seq"] for event in as_json["events"]] == list(range(1482, 1502))


def test_a_node_that_failed_shows_the_end_of_its_agents_log(connected: FakeServer, invoke: Invoke) -> None:
    """In lines, under the events, of which none fills the screen."""
    connected.nodes = [make_node("node-1", status="error")]
    connected.event("agent_log", log="\n".join(f"line {n}\x1b[2J" for n in range(1000)))
    shown = invoke("nodes", "show", "node-1").stdout
    events, _, log = shown.partition("the end of its agent's log\n")
    assert log.splitlines() == [f"  | line {n}" for n in range(980, 1000)]
    assert "agent_log" in events and "line 0" in events and max(map(len, events.splitlines())) < 400
    assert "line 999" in invoke("nodes", "show", "node-1", "--json").stdout


def test_waiting_for_a_node_ends_with_what_became_of_it(connected: FakeServer, invoke: Invoke) -> None:
    """0 when it can be used, 1 when it never will, with the reason."""
    connected.nodes = [make_node("node-1", status="active")]
    assert invoke("nodes", "add", "--provider", "local", "--wait").stdout.endswith("it is active\n")
    connected.nodes = [make_node("node-1", status="destroyed", error={"message": "sold out"})]
    failed = invoke("nodes", "add", "--provider", "local", "--wait")
    assert (failed.exit_code, failed.stderr) == (1, "sold out\n")


def test_usage_and_projects_are_shown(api: World, invoke: Invoke) -> None:
    """The month's sums with the limits; a task's project; lists by project."""
    task_id = invoke("submit", "--repo", "/srv/none", "--project", "web", "--", "make").stdout.strip()
    assert "project" in invoke("show", task_id).stdout
    assert task_id in invoke("list", "--project", "web").stdout
    assert invoke("list", "--project", "other").stdout == "no tasks\n"
    api.place(api.submit(project="api"))
    api.service.usage.set_quota("ada", "web", {"budget": 5.0})
    shown = invoke("usage").stdout
    assert "budget 5" in shown
    assert json.loads(invoke("usage", "--month", "2020-01", "--json").stdout)["cost"] == 0
    assert invoke("usage", "--month", "yesterday").exit_code == 2
