"""Whoever rings has committed first: the quickest of workers, that hears it before the ringer's next line, finds it."""

from __future__ import annotations

import pytest
import redis

from taskflow.engine.control import Alarm
from tests.support.fake_agent import READY, outcome
from tests.support.world import SPEC, World


@pytest.fixture
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose worker takes each hint that is due in the very call that publishes it."""
    publish = world.broker.publish

    def at_once(alarm: Alarm) -> None:
        if alarm.countdown_s > 0:
            publish(alarm)
        else:
            world.turn(alarm.run_id, alarm.generation)

    monkeypatch.setattr(world.broker, "publish", at_once)
    world.plan.session_s = None
    return world


def test_a_submitted_task_starts(quick: World) -> None:
    """Its row is there for the worker; an alarm of a run that SQL does not know would be thrown away."""
    task = quick.submit()
    assert quick.task(task["id"])["step"] == "node_agent_ready"


def test_a_draft_that_is_run_starts(quick: World) -> None:
    """So does the first run of a draft."""
    draft = quick.submit(start=False)
    quick.service.tasks.run(quick.caller, draft["id"])
    assert quick.task(draft["id"])["step"] == "node_agent_ready"


def test_a_rerun_starts(quick: World) -> None:
    """So does each further run."""
    task = quick.submit()
    quick.cancel(task["id"])
    quick.finish(task)
    quick.service.tasks.rerun(quick.caller, task["id"])
    assert quick.task(task["id"])["step"] != "node_selection"


def test_a_ready_callback_is_found(quick: World) -> None:
    """The woken turn reads the answer that woke it."""
    quick.plan.workspace_s = None
    task = quick.submit(**SPEC)
    quick.at_step(task, "workspace_ready")
    quick.run_for(1)
    workspace_id, workspace = next(iter(quick.agent.workspaces.items()))
    caller = quick.service.accounts.authenticate(workspace["token"], "workspace")
    quick.service.callbacks.workspace_outcome(caller, workspace_id, READY)
    assert quick.task(task["id"])["step"] == "running"


def test_an_outcome_is_found(quick: World) -> None:
    """The task is over when its worker has heard of it."""
    task = quick.submit()
    quick.at_step(task, "running")
    quick.run_for(1)
    workspace_id, workspace = next(iter(quick.agent.workspaces.items()))
    caller = quick.service.accounts.authenticate(workspace["token"], "workspace")
    session_id = next(iter(quick.agent.sessions))
    quick.service.callbacks.session_outcome(caller, workspace_id, session_id, outcome("exited", exit_code=0))
    assert quick.task(task["id"])["status"] == "completed"


def test_a_cancel_is_found(quick: World) -> None:
    """The task is cancelled when its worker has heard of it."""
    task = quick.submit()
    quick.at_step(task, "running")
    quick.run_for(1)
    quick.cancel(task["id"])
    assert quick.task(task["id"])["status"] == "cancelled"


def test_a_released_slot_is_found(quick: World) -> None:
    """Who waits for capacity is rung by the cleanup that makes it, and finds the slot free."""
    tasks = [quick.submit() for _ in range(quick.settings.node_slots * quick.settings.local_nodes_max)]
    for task in tasks:
        quick.at_step(task, "running")
    waiting = quick.submit()
    quick.at_step(waiting, "waiting_for_capacity")
    quick.cancel(tasks[0]["id"])
    quick.run_until(lambda: quick.task(tasks[0]["id"])["finished"], "it cleans up")
    assert quick.task(waiting["id"])["step"] == "workspace_ready"


def test_a_process_begins_also_while_redis_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it can't take over now is over when the leases are; it must not keep the worker from starting."""

    def away() -> float:
        raise redis.ConnectionError("no Redis")

    monkeypatch.setattr(world.app.control, "now", away)
    world.app.take_over()
