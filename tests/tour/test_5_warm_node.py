"""A node is kept warm for the next task, and ends when nobody comes."""

from __future__ import annotations

from tests.support.world import World


def test_the_next_task_uses_the_warm_node(world: World) -> None:
    """A node without work stays for a while: the next task skips creating and booting one."""
    world.finish(world.submit())
    world.node_is("warm")

    second = world.submit()
    world.finish(second)

    assert world.steps(second["id"])[0] == "workspace_creation"
    assert len(world.provider.bought) == 1


def test_a_warm_node_ends_when_its_time_is_over(world: World) -> None:
    """The end of the warm time is an alarm like any other: no process watches idle nodes."""
    world.finish(world.submit())
    world.node_is("warm")

    waited_s = world.run_until(lambda: world.node().status == "destroyed", "the node is destroyed")

    assert waited_s >= world.settings.node_warm_s - 10.0
    assert world.provider.inventory() == []
    assert world.agent.alive is False


def test_two_tasks_share_a_node(world: World) -> None:
    """A node has slots, counted from the workspaces that live on it; nothing else is counted."""
    first, second = world.submit(), world.submit()

    world.finish(first, second)

    assert world.agent.most_workspaces == 2
    assert len(world.provider.bought) == 1
