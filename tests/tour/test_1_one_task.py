"""One task's walk, from submit to completed."""

from __future__ import annotations

from tests.support.world import World


def test_a_task_walks_through_the_steps_of_its_table(world: World) -> None:
    """A task is a row in SQL and a run through a table of steps; what it went through can be read afterwards.

    Nothing is kept in a worker's memory between two steps: a step looks, decides, and the decision is stored.
    """
    task = world.submit(command=["make", "hello"])
    assert task["status"] == "queued"

    done = world.finish(task)

    assert done["status"] == "completed"
    assert world.statuses(task["id"]) == ["queued", "delegated", "in_progress", "completed"]
    assert world.steps(task["id"]) == [
        "node_provisioning",  # no node has room: one is ordered; a node is a run of its own
        "node_agent_ready",  # its server exists; its agent has to say that it is there
        "workspace_creation",  # a slot of the node is taken: from here on the task is "delegated"
        "workspace_dispatch",  # the node is told to clone the repository
        "workspace_ready",  # parked: no worker, no message, until the node calls back
        "agent_session",  # the command is started: "in_progress"
        "running",  # parked again, until the node reports the outcome
        "cleanup",  # the status is final already; what the run made is taken away
    ]


def test_the_result_is_what_the_command_left_behind(world: World) -> None:
    """The work of a run is a commit on a branch of its own: a later run can't overwrite it."""
    task = world.submit()

    result = world.finish(task)["result"]

    assert result["output_branch"] == f"taskflow/{task['id']}-1"
    assert result["commit"] == "c0ffee"
    assert result["exit_code"] == 0


def test_at_every_moment_it_says_what_it_waits_for(world: World) -> None:
    """``why`` answers from the stored row: what is awaited, since when and until when."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")

    why = world.why(task["id"])

    assert why["awaiting"] == "session_outcome"
    assert why["runner"] == "alive"
    assert why["since"] < why["until"]
