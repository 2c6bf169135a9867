"""A worker dies in the middle, another goes on."""

from __future__ import annotations

from tests.support.world import World


def test_another_worker_goes_on_where_the_dead_one_stopped(world: World) -> None:
    """The worker dies after the node made the workspace and before that was written down.

    Its lease runs out, the alarm index rings again, another worker repeats the step. The workspace's id follows from
    the run's, so the repeated request finds the workspace that is there.
    """
    world.crash_at("performed:workspace_dispatch")
    task = world.submit()

    assert world.finish(task)["status"] == "completed"
    assert world.crashes == ["performed:workspace_dispatch"]
    assert sum(world.agent.created.values()) == 1


def test_what_was_written_is_not_done_again(world: World) -> None:
    """The worker dies between writing to SQL and writing to Redis: SQL is ahead, and SQL wins."""
    world.crash_at("applied:agent_session")
    task = world.submit()

    assert world.finish(task)["status"] == "completed"
    assert world.steps(task["id"]).count("running") == 1
    assert world.wire.made("PUT", "/sessions/") == 1


def test_an_emptied_redis_loses_nothing(world: World) -> None:
    """Redis holds only what can be made again from SQL: leases, alarms, counters."""
    task = world.submit()
    world.at_step(task, "running")

    world.redis.flushall()

    assert world.finish(task)["status"] == "completed"
