"""A ready callback that comes before anybody waits for it, and again."""

from __future__ import annotations

from tests.support.fake_agent import outcome
from tests.support.world import World


def test_a_callback_that_comes_early_is_found_when_its_step_is_reached(world: World) -> None:
    """A callback becomes a row before it is answered; the step that needs it looks for the row first.

    Here the node is ready with the workspace before its answer to the request arrives.
    """
    world.wire.after = lambda method, path: (
        world.agent.finish_workspace(path.split("/")[-1]) if (method, "sessions" in path) == ("PUT", False) else None
    )
    task = world.submit()

    assert world.finish(task)["status"] == "completed"
    assert [event["step"] for event in world.events(task["id"]) if event["kind"] == "signal_recorded"] == [
        "workspace_dispatch",
        "running",
    ]


def test_a_callback_that_comes_twice_changes_nothing_the_second_time(world: World) -> None:
    """Whoever got no answer sends again: the first write wins and the second hears the same."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    workspace_id, workspace = next(iter(world.agent.workspaces.items()))
    session_id = next(iter(world.agent.sessions))
    caller = world.service.accounts.authenticate(workspace["token"], "workspace")
    said = outcome("exited", exit_code=0)

    first = world.service.callbacks.session_outcome(caller, workspace_id, session_id, said)
    second = world.service.callbacks.session_outcome(caller, workspace_id, session_id, said)

    assert first == second
    assert world.finish(task)["status"] == "completed"
    assert world.statuses(task["id"]).count("completed") == 1
