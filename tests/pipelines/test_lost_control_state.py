"""Redis is emptied: every run goes on from its row, and no effect is repeated."""

from __future__ import annotations

import pytest

from tests.pipelines.test_crashes import MATRIX, start
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


@pytest.mark.parametrize("step", list(MATRIX))
def test_an_emptied_store_at_any_step_is_rebuilt(make_world: MakeWorld, step: str) -> None:
    """The store is emptied under the running turn, while its step performs."""
    world = make_world(node_slots=1 if MATRIX[step] == "behind" else 4)
    task = start(world, MATRIX[step])
    emptied: list[str] = []

    def empty(run_id: str, name: str) -> None:
        if run_id == task["run_id"] and name == f"performed:{step}" and not emptied:
            emptied.append(name)
            world.redis.flushall()

    world.at_checkpoint = empty

    assert world.finish(task)["status"] == "completed"
    assert emptied
    world.finish(*world.service.tasks.list(world.caller)[0])
    world.assert_settled()


def test_twenty_tasks_at_different_steps_survive_an_emptied_store(make_world: MakeWorld) -> None:
    """They are started one after the other, so they stand at different steps; every one completes once."""
    world = make_world(node_slots=6)
    tasks = []
    for number in range(20):
        tasks.append(world.submit(title=f"task {number}"))
        world.run_for(0.7)
    steps = {world.task(task["id"])["step"] for task in tasks}
    assert len(steps) >= 3, steps

    world.redis.flushall()
    world.broker.waiting.clear()

    world.finish(*tasks)
    assert {world.task(task["id"])["status"] for task in tasks} == {"completed"}
    assert world.agent.most_workspaces == 6
    world.assert_settled()


def test_an_emptied_store_is_noticed_by_the_next_look_of_any_worker(world: World) -> None:
    """A parked run with a far deadline does not wait for it: the incarnation is missing, so all is rebuilt now."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.redis.flushall()
    assert world.why(task["id"])["runner"] == "missing"

    world.app.pump.tick()

    assert world.why(task["id"])["runner"] == "alive"
