"""Sweeps over nodes and workspaces: what they select, what they leave alone, and what they ask for, on both databases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import structlog
import time_machine
from sqlalchemy import Engine, insert, select, update

from taskflow.bootstrap import App, bootstrap
from taskflow.celery_settings import beat_schedule
from taskflow.db.models import AgentSession, Event, Node, Run, Task, Workspace
from taskflow.db.runs import get_run
from taskflow.db.session import Database
from taskflow.errors import TransientError
from taskflow.ids import RunId
from taskflow.nodes.context import StepTools
from taskflow.settings import Settings
from taskflow.sweeps import recover_lost_nodes
from taskflow.sweeps.ledger import Memory
from taskflow.sweeps.stop_ended_workspaces import LAST_FENCE
from tests.db.conftest import OWNER, World
from tests.support.engine import Hints

NOW = 100_000.0


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged, kept instead of printed."""
    with structlog.testing.capture_logs() as found:
        yield found


class Agents:
    """What nodes' agents were asked to delete; ``refuse``: node -> what is raised instead, ``before``: called first.
    ``limits_s``: how long each client waits for an answer."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, str, int]] = []
        self.refuse: dict[str, Exception] = {}
        self.before: Callable[[str], None] = lambda workspace_id: None
        self.limits_s: list[float | None] = []

    def of(self, node: Any, limit_s: float | None) -> Any:
        """A client of this node's agent."""
        agents = self
        self.limits_s.append(limit_s)

        class Client:
            def is_alive(self) -> bool:
                return False

            def delete_workspace(self, workspace_id: str, fence: int) -> None:
                agents.before(workspace_id)
                if node.id in agents.refuse:
                    raise agents.refuse[node.id]
                agents.deleted.append((node.id, workspace_id, fence))

        return Client()


class Place(World):
    """Rows, the app that sweeps over them, and its agents."""

    def __init__(self, app: App, agents: Agents, hints: Hints, travel: time_machine.Traveller) -> None:
        super().__init__(app.database)
        self.travel = travel
        self.app = app
        self.agents = agents
        self.hints = hints

    def beating(self, node_id: str, *workspaces: str, age_s: float = 1.0, **fields: Any) -> None:
        """The node says what stands on it."""
        values = {"address": f"http://{node_id}", "last_heartbeat_at": NOW - age_s, **fields}
        self.set_node(node_id, heartbeat={"workspaces": list(workspaces)}, **values)

    def set_node(self, node_id: str, **fields: Any) -> None:
        """Columns of a node."""
        self.write(lambda tx: tx.execute(update(Node).where(Node.id == node_id).values(**fields)))

    def set_run(self, run_id: str, **fields: Any) -> None:
        """Columns of a run."""
        self.write(lambda tx: tx.execute(update(Run).where(Run.id == run_id).values(**fields)))

    def workspace(
        self, name: str, node_id: str = "node-1", *, released_at: float | None = None, ended: bool = False
    ) -> str:
        """A workspace with its session, task and run."""
        status = "completed" if ended else "in_progress"
        self.run(f"run-{name}", self.task(f"task-{name}", status, run_id=f"run-{name}"))
        if ended:
            self.set_run(f"run-{name}", finished_at=released_at or 50.0, rev=7)

        def work(tx: Any) -> None:
            tx.execute(
                insert(Workspace).values(
                    id=f"ws-{name}", owner_id=OWNER, task_id=f"task-{name}", run_id=f"run-{name}", node_id=node_id,
                    status="ready" if released_at is None else "released", reserved_at=1.0, released_at=released_at,
                )
            )  # fmt: skip
            tx.execute(
                insert(AgentSession).values(
                    id=f"session-{name}", owner_id=OWNER, task_id=f"task-{name}", run_id=f"run-{name}",
                    workspace_id=f"ws-{name}", status="started", started_at=2.0, log_bytes=0,
                )
            )  # fmt: skip

        self.write(work)
        return f"ws-{name}"

    def one(self, table: Any, row_id: str) -> Any:
        """A row by id."""
        with self.database.read() as tx:
            return tx.execute(select(table.__table__).where(table.id == row_id)).one()


@pytest.fixture
def place(
    engine: Engine, fake_redis: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """An app at ``NOW`` with one node, "node-1"."""
    hints, agents = Hints(), Agents()
    monkeypatch.setattr(StepTools, "agent", lambda tools, node, now: agents.of(node, tools.agent_timeout_s))
    with time_machine.travel(NOW, tick=False) as travel:
        app = bootstrap(
            dataclasses.replace(settings, heartbeat_interval_s=10.0, heartbeat_stale_s=60.0, sweep_page=10),
            database=Database(engine), client=fake_redis, publisher=hints, providers={},
        )  # fmt: skip
        made = Place(app, agents, hints, travel)
        made.node()
        yield made


def ended(place: Place) -> dict[str, Any]:
    """One sweep over workspaces."""
    return place.app.sweep("stop_ended_workspaces")


def test_no_sweep_waits_for_an_agent_as_long_as_a_step_does(place: Place) -> None:
    """One node that does not answer must not use up the time of all the others: five seconds, not twenty."""
    assert place.app.settings.agent_request_timeout_s == 20.0
    place.workspace("a", ended=True)
    place.beating("node-1")
    ended(place)
    place.workspace("b")
    place.write(lambda tx: tx.execute(update(Task).where(Task.id == "task-b").values(node_id="node-1", started_at=2.0)))
    place.beating("node-1", age_s=70.0)
    place.app.sweep("stuck_tasks")
    assert place.agents.limits_s == [5.0, 5.0]


# --- workspaces that outlived their run


def test_a_slot_whose_run_is_over_is_given_back_after_its_node_deleted_it(place: Place) -> None:
    """With a fence above every one that the run wrote, its session ended, and the node's runner told."""
    place.beating("node-1", age_s=5000.0)
    workspace_id = place.workspace("held", ended=True)
    assert ended(place) == {"done": 1, "failed": 0, "skipped": 0}
    assert place.agents.deleted == [("node-1", workspace_id, 8)]
    row = place.one(Workspace, workspace_id)
    assert (row.status, row.released_at) == ("released", NOW)
    assert place.one(AgentSession, "session-held").outcome == {"outcome": "stopped"}
    assert [alarm.run_id for alarm in place.hints.published] == ["run-node-1"]
    assert ended(place) == {"done": 0, "failed": 0, "skipped": 0}
    assert len(place.agents.deleted) == 1


def test_a_slot_on_a_node_that_is_gone_is_given_back_without_asking_anybody(place: Place) -> None:
    """There is nobody to ask."""
    workspace_id = place.workspace("held", ended=True)
    place.beating("node-1", status="destroyed", destroyed_at=90.0)
    assert ended(place)["done"] == 1
    assert place.agents.deleted == []
    assert place.one(Workspace, workspace_id).released_at == NOW


def test_a_slot_is_kept_while_its_node_may_still_have_the_workspace(place: Place) -> None:
    """A node that does not answer is asked again later; until then nobody else gets the slot."""
    place.beating("node-1")
    workspace_id = place.workspace("held", ended=True)
    place.agents.refuse["node-1"] = TransientError("no answer", code="agent_unreachable")
    assert ended(place) == {"done": 0, "failed": 1, "skipped": 0}
    assert place.one(Workspace, workspace_id).released_at is None
    place.agents.refuse.clear()
    assert ended(place) == {"done": 0, "failed": 0, "skipped": 1}
    place.travel.shift(61.0)
    place.beating("node-1", age_s=-60.0)
    assert ended(place) == {"done": 1, "failed": 0, "skipped": 0}
    assert place.one(Workspace, workspace_id).released_at is not None


def test_a_workspace_whose_run_is_open_is_never_touched(place: Place) -> None:
    """Neither where its slot is held, nor where a node reports it: released or not, known to SQL by its row or only by
    its run."""
    place.workspace("live")
    place.workspace("cleaning", released_at=50.0)
    place.run("run-unplaced", place.task("task-unplaced", run_id="run-unplaced"))
    place.beating("node-1", "ws-live", "ws-cleaning", "ws-unplaced")
    assert ended(place) == {"done": 0, "failed": 0, "skipped": 0}
    assert place.agents.deleted == []
    assert place.one(Workspace, "ws-live").released_at is None


def test_what_a_node_still_has_after_its_release_is_deleted_there(place: Place) -> None:
    """And noted in the node's history; who is not reported is not asked for."""
    left = place.workspace("left", released_at=50.0, ended=True)
    place.workspace("gone", released_at=50.0, ended=True)
    place.beating("node-1", left, "ws-neverheardof")
    assert ended(place) == {"done": 2, "failed": 0, "skipped": 0}
    assert sorted(place.agents.deleted) == [("node-1", left, 8), ("node-1", "ws-neverheardof", LAST_FENCE)]
    with place.database.read() as tx:
        events = tx.execute(select(Event.data).where(Event.kind == "workspace_deleted")).scalars().all()
    assert {one["workspace_id"] for one in events} == {left, "ws-neverheardof"}
    place.beating("node-1")
    assert ended(place) == {"done": 0, "failed": 0, "skipped": 0}


@pytest.mark.parametrize(
    ("released_ago_s", "doubt"),
    [
        (5.0, {"age_s": 1.0}),  # made while the deletion was under way
        (5.0, {"age_s": 50.0}),  # older than the release
        (500.0, {"age_s": 61.0}),  # too old to say how things are now
        (500.0, {"destroyed_at": 90.0, "status": "destroyed"}),
        (500.0, {"address": None}),
    ],
)
def test_a_report_that_proves_nothing_deletes_nothing(
    place: Place, released_ago_s: float, doubt: dict[str, Any]
) -> None:
    """A heartbeat from around the release, from long ago, or of a node that is gone."""
    left = place.workspace("left", released_at=NOW - released_ago_s, ended=True)
    place.beating("node-1", left, **doubt)
    assert ended(place)["done"] == 0
    assert place.agents.deleted == []
    place.beating(
        "node-1", left, **{**doubt, "age_s": 1.0, "destroyed_at": None, "status": "active", "address": "http://n"}
    )
    place.write(lambda tx: tx.execute(update(Workspace).values(released_at=NOW - 500.0)))
    assert ended(place)["done"] == 1


def test_a_run_that_turns_out_to_be_open_right_before_the_call_is_left_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read again after the page: what was true there may not be any more."""
    first, second = (place.workspace(name, released_at=50.0, ended=True) for name in ("a", "b"))
    place.beating("node-1", first, second)
    place.agents.before = lambda workspace_id: place.set_run("run-b", finished_at=None)
    assert ended(place) == {"done": 1, "failed": 0, "skipped": 0}
    assert [one[1] for one in place.agents.deleted] == [first]


def test_what_a_node_reports_is_not_trusted_to_be_a_name(place: Place) -> None:
    """It becomes part of an address."""
    place.beating("node-1", "../node", "ws-a/../b", "task-1", "ws-", "ws-" + "a" * 100)
    place.set_node("node-1", heartbeat={"workspaces": ["ws-A B", None, 7]})
    assert ended(place)["done"] == 0
    place.beating("node-1", "../node", "ws-a/../b", "task-1", "ws-", "ws-" + "a" * 100)
    assert ended(place)["done"] == 0
    assert place.agents.deleted == []


def test_nodes_that_refuse_keep_no_other_node_from_its_turn(place: Place) -> None:
    """More leftovers than fit a page, all of them failing: those of the other nodes are deleted all the same."""
    for number in range(2, 14):
        place.node(f"node-{number:02}")
        place.beating(f"node-{number:02}", f"ws-left{number}")
        if number < 12:
            place.agents.refuse[f"node-{number:02}"] = TransientError("no answer", code="agent_unreachable")
    for _ in range(2):
        ended(place)
    assert {one[0] for one in place.agents.deleted} == {"node-12", "node-13"}


# --- nodes that nobody looks at


def lost(place: Place) -> dict[str, Any]:
    """One sweep over nodes."""
    return place.app.sweep("lost_nodes")


def rung(place: Place) -> set[RunId]:
    """Runs that were rung since the last call."""
    found = {alarm.run_id for alarm in place.hints.published}
    place.hints.published.clear()
    return found


def test_a_node_whose_machine_is_looked_at_in_time_is_left_alone(place: Place) -> None:
    """Its alarm is in the index and not overdue."""
    with place.database.read() as tx:
        run = get_run(tx, "run-node-1")
    assert run is not None
    place.app.control.ensure([run])
    rung(place)
    assert lost(place) == {"looked_at": 1, "rung": 0, "ended": 0, "done": 0, "failed": 0, "skipped": 0}
    place.travel.shift(place.app.settings.alarm_overdue_s + 10.0)
    assert lost(place)["rung"] == 1
    assert rung(place) == {"run-node-1"}


@pytest.mark.parametrize(
    ("status", "node_age_s", "deadline_age_s", "is_rung"),
    [
        ("creating", 100.0, 61.0, True),
        ("creating", 100.0, 59.0, False),
        ("awaiting_agent", 100.0, 61.0, True),
        ("awaiting_agent", 100.0, None, False),
        ("requested", 1861.0, None, True),
        ("requested", 1859.0, None, False),
        ("active", 1e5, None, False),
        ("draining", 1e5, 61.0, True),
        ("warm", 100.0, 61.0, False),  # another sweep's
    ],
)
def test_a_node_past_its_limits_is_rung(
    place: Place, status: str, node_age_s: float, deadline_age_s: float | None, is_rung: bool
) -> None:
    """By the deadline of its step, or by how long a node may be coming at all; with a grace for its own runner."""
    place.set_node("node-1", status=status, created_at=NOW - node_age_s)
    place.set_run("run-node-1", deadline_at=None if deadline_age_s is None else NOW - deadline_age_s)
    assert lost(place)["rung"] == is_rung
    assert rung(place) == ({"run-node-1"} if is_rung else set())


@pytest.mark.parametrize("status", ["requested", "creating", "awaiting_agent", "active", "warm", "draining"])
def test_a_node_that_stands_without_an_open_run_gets_one_that_ends_it(place: Place, status: str) -> None:
    """Whatever state it was left in; from then on nothing new comes to it, and a second look gives no second run."""
    place.set_node("node-1", status=status, warm_until=5.0)
    place.set_run("run-node-1", finished_at=50.0)
    assert lost(place)["ended"] == 1
    node = place.one(Node, "node-1")
    assert (node.status, node.warm_until, node.run_id == "run-node-1") == ("draining", None, False)
    run = place.one(Run, node.run_id)
    assert (run.step, run.number, run.finished_at) == ("drain", 2, None)
    assert rung(place) == {node.run_id}
    assert lost(place)["ended"] == 0
    assert place.one(Node, "node-1").run_id == node.run_id


def test_a_node_whose_run_is_not_even_there_gets_one(place: Place) -> None:
    """A restored backup may have nodes without their runs."""
    place.set_node("node-1", run_id="run-unknown")
    place.set_run("run-node-1", subject_id="node-other")
    assert lost(place)["ended"] == 1
    run = place.one(Run, place.one(Node, "node-1").run_id)
    assert (run.pipeline, run.step, run.number, run.subject_id) == ("node", "drain", 1, "node-1")


@pytest.mark.parametrize(
    "fields", [{"status": "error"}, {"status": "destroyed", "destroyed_at": 60.0}], ids=["error", "destroyed"]
)
def test_a_node_that_is_gone_or_another_sweeps_gets_no_run(place: Place, fields: dict[str, Any]) -> None:
    """Nodes in status error are tried again ever more rarely; here they would be tried each minute."""
    place.set_node("node-1", **fields)
    place.set_run("run-node-1", finished_at=50.0)
    assert lost(place)["looked_at"] == 0
    assert place.one(Node, "node-1").run_id == "run-node-1"


def test_a_node_that_got_a_run_between_the_look_and_the_write_keeps_it(place: Place) -> None:
    """The update is guarded: somebody who destroyed it by hand was quicker."""
    place.set_run("run-node-1", finished_at=50.0)
    sweep = place.app.sweeps["lost_nodes"]

    def quicker(tx: Any, run_id: str, *, lock: bool = False) -> Any:
        found = get_run(tx, run_id, lock=lock)
        tx.execute(update(Node).values(run_id="run-by-hand"))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover_lost_nodes, "get_run", quicker)
        assert sweep(Memory(name="lost_nodes"))["ended"] == 0
    with place.database.read() as tx:
        assert tx.execute(select(Run.id).where(Run.subject_kind == "node")).scalars().all() == ["run-node-1"]


# --- nodes in error


def error_node(place: Place, node_id: str, *, number: int = 1, ago_s: float = 0.0) -> None:
    """A node that its run gave up ``ago_s`` ago."""
    if node_id != "node-1":
        place.node(node_id)
    place.set_node(node_id, status="error")
    place.set_run(f"run-{node_id}", finished_at=NOW - ago_s, number=number)


@pytest.mark.parametrize(("number", "wait_s"), [(1, 600.0), (2, 1200.0), (6, 19_200.0), (7, 21_600.0), (40, 21_600.0)])
def test_a_node_in_error_is_tried_again_after_its_wait_and_not_before(place: Place, number: int, wait_s: float) -> None:
    """Ten minutes, doubled with each run, six hours at most."""
    error_node(place, "node-1", number=number, ago_s=wait_s - 1.0)
    assert place.app.sweep("retry_error_nodes") == {"in_error": 1, "done": 0, "failed": 0, "skipped": 0}
    place.travel.shift(1.0)
    assert place.app.sweep("retry_error_nodes")["done"] == 1
    run = place.one(Run, place.one(Node, "node-1").run_id)
    assert (run.step, run.number) == ("destroy_server", number + 1)


def test_nodes_in_error_that_are_not_due_fill_no_page(place: Place) -> None:
    """More of them than a page has, all older: the one that is due is tried."""
    for n in range(2, 15):
        error_node(place, f"node-{n:02}", number=40, ago_s=700.0)
    error_node(place, "node-99", number=1, ago_s=650.0)
    assert place.app.sweep("retry_error_nodes")["done"] == 1
    assert place.one(Node, "node-99").run_id != "run-node-99"


# --- all of them


def test_every_sweep_can_be_paused_and_runs_again(place: Place) -> None:
    """None is left out, and one that is paused does nothing."""
    health = place.app.service.health
    place.set_run("run-node-1", finished_at=50.0)
    for name in place.app.sweeps:
        health.pause_sweep(name, paused=True)
        assert place.app.sweep(name) == {"paused": True}
    assert place.one(Node, "node-1").status == "active"
    assert {one["state"] for one in health.sweeps()} == {"paused"}
    for name in place.app.sweeps:
        health.pause_sweep(name, paused=False)
        assert "paused" not in place.app.sweep(name)


def test_every_sweep_is_scheduled_listed_and_remembers_its_success(place: Place) -> None:
    """The schedule, what can be run, and what is shown are the same jobs."""
    health, intervals = place.app.service.health, place.app.settings.sweep_intervals()
    assert set(place.app.sweeps) == set(intervals) == set(beat_schedule(place.app.settings))
    assert {one["state"] for one in health.sweeps()} == {"new"}
    for name in place.app.sweeps:
        place.app.sweep(name)
    shown = {one["name"]: one for one in health.sweeps()}
    assert set(shown) == set(intervals)
    assert all(one["state"] == "ok" and one["last_success_at"] for one in shown.values())
    place.travel.shift(4 * 3600.0)
    assert {one["state"] for one in health.sweeps()} == {"late"}
