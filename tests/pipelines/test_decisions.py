"""Each step's decision by itself: what it looks at, and where it sends the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Node
from taskflow.db.nodes import CAPACITY
from taskflow.db.runs import to_row
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.engine.store import Signal
from taskflow.errors import PermanentError, StepError
from taskflow.pipelines.agent_task import placement
from tests.support.fake_agent import outcome
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def decide(world: World, task: dict[str, Any], step: str, *signals: tuple[str, dict[str, Any]], **late: Any) -> Outcome:
    """What ``step`` decides for the task's run as it is now; nothing is applied."""
    pipeline = world.app.pipelines["agent_task"]
    row = world.run_row(task)
    run = replace(to_row(row), step=step, **late)
    recorded = tuple(Signal(n, name, "s", payload, row.created_at) for n, (name, payload) in enumerate(signals))
    ctx = StepContext(run, recorded, world.app.control.now(), 1, 1, pipeline)
    found = pipeline.step(step)
    assert found is not None
    return found.perform(ctx)


def went_to(decision: Outcome) -> str:
    """Where an Advance goes."""
    assert isinstance(decision, Advance), decision
    return decision.step


def at(world: World, step: str) -> dict[str, Any]:
    """A task that stays at ``step``."""
    world.plan.boot_s = None if step in ("node_provisioning", "node_agent_ready") else 3.0
    world.plan.workspace_s = None if step == "workspace_ready" else 1.0
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, step)
    return task


def test_node_selection_orders_a_node_where_there_is_none(world: World) -> None:
    """Nothing is written yet: the order is an effect of going on, and being too late means waiting."""
    decision = decide(world, world.submit(), "node_selection")
    assert went_to(decision) == "node_provisioning"
    assert isinstance(decision, Advance) and decision.otherwise is not None
    assert went_to(decision.otherwise) == "waiting_for_capacity"
    assert world.count(Node) == 0


def test_node_selection_takes_a_node_with_room(world: World) -> None:
    """A node that runs is used without waiting for another."""
    at(world, "running")
    assert went_to(decide(world, world.submit(), "node_selection")) == "workspace_creation"


def test_node_selection_joins_a_node_that_is_coming(world: World) -> None:
    """Two tasks in the first minute don't buy two nodes."""
    at(world, "node_agent_ready")
    assert went_to(decide(world, world.submit(), "node_selection")) == "node_provisioning"


def test_waiting_for_capacity_waits_while_all_is_full_and_takes_the_place_it_is_given(make_world: MakeWorld) -> None:
    """Whoever frees a place gives it to one who waits; the one that is given goes there."""
    world = make_world(node_slots=1)
    first = at(world, "running")
    second = world.submit()
    world.at_step(second, "waiting_for_capacity")
    waits = decide(world, second, "waiting_for_capacity")
    assert isinstance(waits, AwaitSignal)
    assert (waits.name, waits.poll_s) == (CAPACITY, 15.0)
    world.cancel(first["id"])
    world.finish(first)
    given = decide(world, second, "waiting_for_capacity", (CAPACITY, {"node_id": world.node().id}))
    assert went_to(given) == "node_provisioning"
    assert isinstance(given, Advance) and given.results == {"node_id": world.node().id}


def test_many_who_wait_look_rarely(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are rung when there is room; their own looks together are a few a second, however many they are."""
    world = make_world(node_slots=1)
    at(world, "running")
    second = world.submit()
    monkeypatch.setattr(placement, "count_waiting", lambda *_: 1000)
    waits = decide(world, second, "waiting_for_capacity")
    assert isinstance(waits, AwaitSignal) and waits.poll_s == 250.0


@pytest.mark.parametrize(
    ("status", "to"),
    [("active", "workspace_creation"), ("warm", "workspace_creation"), ("draining", "node_selection")],
)
def test_both_waits_for_a_node_follow_its_status(world: World, status: str, to: str) -> None:
    """Usable: on; no longer coming: choose again."""
    task = at(world, "node_agent_ready")
    world.app.database.write(lambda tx: tx.execute(update(Node).values(status=status)))
    assert went_to(decide(world, task, "node_provisioning")) == to
    assert went_to(decide(world, task, "node_agent_ready")) == to


def test_a_node_that_is_coming_is_looked_at_again_later(world: World) -> None:
    """Its server exists: the wait for the server is over, the wait for the agent goes on."""
    task = at(world, "node_agent_ready")
    assert went_to(decide(world, task, "node_provisioning")) == "node_agent_ready"
    assert isinstance(decide(world, task, "node_agent_ready"), Snooze)


def test_workspace_creation_falls_back_to_selection(world: World) -> None:
    """Taking the slot is a guarded effect; the loser chooses again."""
    task = at(world, "running")
    decision = decide(world, task, "workspace_creation")
    assert went_to(decision) == "workspace_dispatch"
    assert isinstance(decision, Advance) and decision.otherwise is not None
    assert went_to(decision.otherwise) == "node_selection"


def test_workspace_dispatch_asks_the_node_with_the_runs_own_ids(world: World) -> None:
    """Fence, branch and callback token are of this run."""
    task = at(world, "workspace_ready")
    workspace_id, made = next(iter(world.agent.workspaces.items()))
    assert workspace_id.removeprefix("ws-") == task["run_id"].removeprefix("run-")
    assert made["content"]["output_branch"] == f"taskflow/{task['id']}-1"
    assert made["token"] == world.app.tools.vault.derive_token("workspace", workspace_id)
    assert went_to(decide(world, task, "workspace_dispatch")) == "workspace_ready"
    assert list(world.agent.workspaces) == [workspace_id]  # asked again, the node made no second one


def test_workspace_ready_parks_until_its_answer(world: World) -> None:
    """Ready goes on, failed raises the node's reason."""
    task = at(world, "workspace_ready")
    assert isinstance(decide(world, task, "workspace_ready"), AwaitSignal)
    ready = ("workspace_outcome", {"status": "ready", "base_commit": "b"})
    assert went_to(decide(world, task, "workspace_ready", ready)) == "agent_session"
    bad = ("workspace_outcome", {"status": "failed", "error": {"message": "no such branch", "phase": "branch"}})
    with pytest.raises(PermanentError, match="no such branch"):
        decide(world, task, "workspace_ready", bad)


def test_agent_session_starts_the_command_and_goes_on(world: World) -> None:
    """A repeat hears what the first one was told, and starts nothing."""
    task = at(world, "running")
    rev = world.run_row(task).rev
    assert went_to(decide(world, task, "agent_session", rev=rev)) == "running"
    assert sum(world.agent.started.values()) == 1


def test_running_parks_until_its_outcome(world: World) -> None:
    """Without an outcome it looks whether anybody lives to report one; with one the task ends."""
    task = at(world, "running")
    assert isinstance(decide(world, task, "running"), AwaitSignal)
    assert went_to(decide(world, task, "running", ("session_outcome", outcome("exited", exit_code=0)))) == "cleanup"
    bad = decide(world, task, "running", ("session_outcome", outcome("exited", exit_code=2)))
    assert isinstance(bad, Advance) and bad.error is not None
    assert bad.error["code"] == "command_failed"


@pytest.mark.parametrize("given_up", [False, True])
def test_running_leaves_the_verdict_to_its_nodes_runner_while_there_is_one(world: World, given_up: bool) -> None:
    """No heartbeat, no answer, no server: only where the runner gave the node up does the task's own step judge."""
    task = at(world, "running")
    world.agent.alive = False
    world.provider.states.clear()
    world.travel.shift(100)
    if not given_up:
        assert isinstance(decide(world, task, "running"), AwaitSignal)
        return
    world.app.database.write(lambda tx: tx.execute(update(Node).values(status="error", error={"code": "refused"})))
    with pytest.raises(StepError) as lost:
        decide(world, task, "running")
    assert (lost.value.code, lost.value.detail["by"]) == ("node_lost", "server_gone")


@pytest.mark.parametrize("step", ["workspace_dispatch", "workspace_ready", "agent_session", "running"])
def test_every_step_on_a_lost_node_fails_with_its_verdict(world: World, step: str) -> None:
    """The same words and signs, whatever the step was about to do; the cleanup asks nobody."""
    task = at(world, "running")
    said = {"code": "node_lost", "message": "node x is lost: silent for 400 s", "detail": {"by": "silence"}}
    world.app.database.write(lambda tx: tx.execute(update(Node).values(status="draining", error=said)))
    asked = len(world.wire.calls)
    with pytest.raises(PermanentError) as lost:
        decide(world, task, step)
    assert (lost.value.code, lost.value.message, lost.value.detail) == ("node_lost", said["message"], said["detail"])
    assert isinstance(decide(world, task, "cleanup", rev=99), Done)
    assert len(world.wire.calls) == asked


def test_cleanup_tells_the_node_and_is_done(world: World) -> None:
    """The slot is an effect of being done; repeating it is harmless."""
    task = at(world, "running")
    for _ in range(2):
        assert isinstance(decide(world, task, "cleanup", rev=99), Done)
    assert world.agent.workspaces == {}
    assert len(world.agent.tombstones) == 1


@pytest.mark.parametrize("step", ["attachment_transfer", "awaiting_followup"])
def test_a_step_whose_place_is_kept_is_never_entered(world: World, step: str) -> None:
    """Skipping is part of the table."""
    task = world.submit()
    world.finish(task)
    assert step not in world.steps(task["id"])
    with pytest.raises(PermanentError):
        decide(world, task, step)
