"""A rerun is a run of its own: nothing of the one before reaches it."""

from __future__ import annotations

import pytest

from taskflow.errors import Conflict, Gone
from tests.support.fake_agent import outcome
from tests.support.world import World


def test_a_rerun_starts_with_fresh_state_and_a_branch_of_its_own(world: World) -> None:
    """New run, workspace and branch; error, result and placement of the failed run are gone from the task."""
    world.plan.outcome = {"outcome": "exited", "exit_code": 1}
    task = world.submit()
    failed = world.finish(task)
    world.plan.outcome = {"outcome": "exited", "exit_code": 0}

    again = world.service.tasks.rerun(world.caller, task["id"])
    assert (again["status"], again["run_number"], again["error"]) == ("queued", 2, None)
    assert again["result"]["exit_code"] is None
    assert again["run_id"] != failed["run_id"]
    done = world.finish(task)

    assert done["status"] == "completed"
    assert done["result"]["output_branch"] == f"taskflow/{task['id']}-2"
    assert len(world.agent.created) == 2
    world.assert_settled()


def test_callbacks_of_the_run_before_are_gone(world: World) -> None:
    """Reports of the old run change nothing of the new one, and their sender is told to stop."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    (old_workspace, content), old_session = (
        next(iter(world.agent.workspaces.items())),
        next(iter(world.agent.sessions)),
    )
    world.cancel(task["id"])
    world.finish(task)
    world.service.tasks.rerun(world.caller, task["id"])
    world.at_step(task, "running")
    caller = world.service.accounts.authenticate(content["token"], "workspace")

    with pytest.raises(Gone):
        world.service.callbacks.session_outcome(caller, old_workspace, old_session, outcome("exited", exit_code=0))
    with pytest.raises(Gone):
        said = {"status": "failed", "error": None, "base_commit": None}
        world.service.callbacks.workspace_outcome(caller, old_workspace, said)

    assert world.task(task["id"])["status"] == "in_progress"


def test_a_rerun_waits_until_the_run_before_has_cleaned_up(world: World) -> None:
    """Two runs of one task never live at once."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.cancel(task["id"])
    heard: list[str] = []

    def try_too_early(run_id: str, name: str) -> None:
        if (run_id, name) == (task["run_id"], "perform:cleanup"):
            with pytest.raises(Conflict) as refused:
                world.service.tasks.rerun(world.caller, task["id"])
            heard.append(refused.value.code)

    world.at_checkpoint = try_too_early

    assert world.finish(task)["status"] == "cancelled"
    assert heard == ["still_cleaning_up"]


def test_a_completed_task_is_not_run_again(world: World) -> None:
    """What succeeded stays as it is."""
    task = world.submit()
    world.finish(task)
    with pytest.raises(Conflict):
        world.service.tasks.rerun(world.caller, task["id"])
