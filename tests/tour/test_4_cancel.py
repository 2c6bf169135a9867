"""A cancel while the command runs."""

from __future__ import annotations

from tests.support.world import World


def test_a_cancel_stops_what_runs_and_takes_it_away(world: World) -> None:
    """Cancelling writes a request; the run's own next turn makes it true, so nobody else touches its status.

    The status becomes final first, cleanup follows as a step of its own.
    """
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")

    world.cancel(task["id"])
    assert world.task(task["id"])["status"] == "in_progress"
    done = world.finish(task)

    assert done["status"] == "cancelled"
    assert world.steps(task["id"])[-1] == "cleanup"
    assert world.agent.workspaces == {}
    assert [session["outcome"]["outcome"] for session in world.agent.sessions.values()] == ["stopped"]


def test_a_cancelled_task_can_be_run_again(world: World) -> None:
    """A rerun is the next run of the same task: new workspace, new branch, nothing of the run before."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.cancel(task["id"])
    world.finish(task)
    world.plan.session_s = 5.0

    world.service.tasks.rerun(world.caller, task["id"])
    done = world.finish(task)

    assert (done["status"], done["run_number"]) == ("completed", 2)
    assert done["result"]["output_branch"] == f"taskflow/{task['id']}-2"
