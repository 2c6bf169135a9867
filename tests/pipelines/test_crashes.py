"""A worker may die at any line: another finishes, and every effect happened once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.support.virtual import Crash
from tests.support.world import SPEC, World
from tests.support.world_fixtures import MakeWorld

#: Where a worker dies: before the step's call, after it, after its SQL write, after the Redis write that entered it.
PLACES = ("perform", "performed", "applied", "committed")
#: How a task comes to each step: alone, or behind another one that holds the only slot.
MATRIX = {
    "node_selection": "alone",
    "waiting_for_capacity": "behind",
    "node_provisioning": "alone",
    "node_agent_ready": "alone",
    "workspace_creation": "alone",
    "workspace_dispatch": "alone",
    "workspace_ready": "alone",
    "agent_session": "alone",
    "running": "alone",
    "cleanup": "alone",
}


def _cases() -> list[Any]:
    made = []
    for step, place in itertools.product(MATRIX, PLACES):
        # The first step is never entered by a commit, unless a task that waits finds that it may have a node of its own.
        way = "behind the last" if (step, place) == ("node_selection", "committed") else MATRIX[step]
        made.append(pytest.param(step, place, way, id=f"{step}-{place}"))
    return made


def start(world: World, way: str) -> dict[str, Any]:
    """The task under test; ``behind``: another one holds the only slot; ``behind the last``: of a node that is to go."""
    if way == "alone":
        return world.submit(**SPEC)
    world.at_step(world.submit(), "running")
    task = world.submit(**SPEC)
    if way == "behind the last":
        world.service.nodes.drain(world.caller, world.node().id)
    return task


def test_every_step_of_the_table_is_in_the_matrix(world: World) -> None:
    """A step that is added to the table has to say how it survives a crash."""
    table = world.app.pipelines["agent_task"]
    assert {step.name for step in table.steps if not step.skip} == set(MATRIX)


@pytest.mark.parametrize(("step", "place", "way"), _cases())
def test_a_crash_at_any_place_is_finished_by_another_worker_without_a_second_effect(
    make_world: MakeWorld, step: str, place: str, way: str
) -> None:
    """The task completes, one workspace, one session and one server were made, and nothing is left."""
    # Redis is not told of every step of a turn: only where each is a turn of its own can a worker die right after.
    max_steps = 1 if place == "committed" else 50
    world = make_world(node_slots=4 if way == "alone" else 1, turn_max_steps=max_steps)
    task = start(world, way)
    world.crash_at(f"{place}:{step}", task["run_id"])

    done = world.finish(task)

    assert world.crashes == [f"{place}:{step}"]
    assert done["status"] == "completed"
    assert world.statuses(task["id"]) == ["queued", "delegated", "in_progress", "completed"]
    world.assert_settled()


def test_a_crash_at_every_place_of_one_task_is_survived(world: World) -> None:
    """Dying once at each checkpoint of a run costs leases, not the run."""
    seen: set[str] = set()
    task = world.submit()

    def die_once(run_id: str, name: str) -> None:
        if run_id == task["run_id"] and name not in seen:
            seen.add(name)
            raise Crash(name)

    world.at_checkpoint = die_once
    assert world.finish(task)["status"] == "completed"
    assert set(world.crashes) == seen
    assert len(seen) >= 25
    world.assert_settled()


def test_a_step_that_takes_every_worker_down_fails_the_task_in_the_end(make_world: MakeWorld) -> None:
    """A poison step is bounded: the task fails, says so, and is cleaned up by a worker that lives."""
    world = make_world(step_max_crashes=3)
    task = world.submit()
    world.crash_at("perform:workspace_ready", task["run_id"], times=100)

    done = world.finish(task)

    assert done["status"] == "failed"
    assert done["error"]["code"] == "step_crashes"
    assert len(world.crashes) == 3
    world.assert_settled()
