"""A task whose node was lost runs again where its user allowed it: once for each lost run, and elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from taskflow.db.models import OutboxRow, Run
from tests.support.fake_agent import outcome
from tests.support.virtual import Crash
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def lose(world: World, **spec: Any) -> dict[str, Any]:
    """A task that runs on a node whose link is cut at this moment; what runs later ends by itself."""
    world.plan.session_s = None
    task = world.submit(**spec)
    world.at_step(task, "running")
    world.agent.cut = True
    world.plan.session_s = 5.0
    return task


def over(world: World, task: dict[str, Any]) -> dict[str, Any]:
    """Run until the task has ended and no promise is open; the task."""
    world.run_until(
        lambda: world.task(task["id"])["finished"] and not world.count(OutboxRow, OutboxRow.done_at.is_(None)),
        "the task is over",
    )
    return world.task(task["id"])


def runs(world: World, task: dict[str, Any]) -> int:
    """How many runs the task has had."""
    return world.count(Run, Run.subject_id == task["id"])


def clear_lost(world: World) -> None:
    """What was on destroyed nodes went with them."""
    for agent in world.provider.agents.values():
        if not agent.alive:
            agent.workspaces.clear()


def test_a_lost_run_is_run_again_on_another_node(remote_world: World) -> None:
    """Its failure says that it will be, its history by whom and why; the new run completes."""
    world = remote_world
    task = lose(world, node_loss_reruns=2)
    lost = world.node().id
    world.run_until(lambda: world.task(task["id"])["status"] == "failed", "it is given up")
    assert world.task(task["id"])["error"]["advice"] == "nothing: it is run again by itself (1 of 2)"

    done = over(world, task)

    assert (done["status"], done["run_number"]) == ("completed", 2)
    assert (done["node_loss_reruns"], done["node_loss_reruns_done"]) == (2, 1)
    assert done["node_id"] != lost
    (again,) = [one for one in world.events(task["id"]) if one["data"].get("to") == "ready"]
    assert again["actor"] == "runner" and again["data"]["reason"].startswith("run again, 1 of 2: node")
    clear_lost(world)
    world.assert_settled()


@pytest.mark.parametrize("allowed", [0, 1])
def test_not_more_often_than_allowed(remote_world: World, allowed: int) -> None:
    """The run that is lost after the last one that was allowed leaves the task failed, with its advice."""
    world = remote_world
    task = lose(world, node_loss_reruns=allowed)
    for _ in range(allowed):
        world.plan.session_s = None
        world.run_until(lambda: world.task(task["id"])["run_number"] == 2, "it runs again")
        world.at_step(task, "running")
        world.agent.cut = True

    done = over(world, task)
    world.run_for(300.0)

    assert (done["status"], done["error"]["code"], runs(world, task)) == ("failed", "node_lost", allowed + 1)
    assert "taskflow rerun" in done["error"]["advice"]


def test_a_users_rerun_counts_anew(remote_world: World) -> None:
    """Whoever asks for a further run asks for its further runs too."""
    world = remote_world
    task = lose(world, node_loss_reruns=1)
    world.plan.outcome = {"outcome": "exited", "exit_code": 1}
    assert over(world, task)["node_loss_reruns_done"] == 1
    assert world.service.tasks.rerun(world.caller, task["id"])["node_loss_reruns_done"] == 0


def test_another_failure_is_not_run_again(remote_world: World) -> None:
    """What the command itself did is its user's."""
    remote_world.plan.outcome = {"outcome": "exited", "exit_code": 1}
    task = remote_world.submit(node_loss_reruns=5)
    assert over(remote_world, task)["error"]["code"] == "command_failed"
    assert runs(remote_world, task) == 1


def test_a_session_that_its_cut_off_node_ended_is_lost_with_it(remote_world: World) -> None:
    """The link heals between the dead-man time and the verdict: the node says what it did, and that is a loss too."""
    world = remote_world
    task = lose(world, node_loss_reruns=1)
    world.run_until(lambda: world.agent.cut_off, "its dead-man time is over")
    world.agent.heal()
    world.run_until(lambda: world.task(task["id"])["status"] == "failed", "it reports")
    assert world.task(task["id"])["error"]["detail"] == {"by": "cut_off"}
    assert over(world, task)["status"] == "completed"
    assert runs(world, task) == 2
    world.assert_settled()


def test_what_the_lost_run_reports_is_kept_beside_the_new_one(
    remote_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored once, shown with the number of its run, while the further run goes on and ends by itself."""
    world = remote_world
    task = lose(world, node_loss_reruns=1)
    agent, session_id = world.agent, next(iter(world.agent.sessions))
    workspace_id = agent.sessions[session_id]["workspace_id"]
    caller = world.service.accounts.authenticate(agent.workspaces[workspace_id]["token"], "workspace")
    world.plan.session_s = None
    world.run_until(lambda: world.task(task["id"])["run_number"] == 2, "it runs again")
    world.at_step(task, "running")

    late = outcome("exited", exit_code=0, commit="beef")
    for _ in range(2):
        said = world.service.callbacks.session_outcome(caller, workspace_id, session_id, late)
        assert said == {"recorded": True, "late": True}

    shown = world.task(task["id"])
    assert (shown["status"], shown["result"]["commit"], shown["run_number"]) == ("in_progress", None, 2)
    assert (shown["late_result"]["commit"], shown["late_result"]["run_number"]) == ("beef", 1)
    world.agent.finish_session(next(iter(world.agent.sessions)))
    done = over(world, task)
    assert (done["status"], done["result"]["commit"], done["late_result"]["commit"]) == ("completed", "c0ffee", "beef")
    assert [one["kind"] for one in world.events(task["id"])].count("late_result") == 1


def test_nothing_begins_elsewhere_while_the_lost_run_could_still_start_something(
    remote_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that can't be destroyed is waited for only as long as a paused worker's requests are good."""
    world = remote_world
    monkeypatch.setattr(world.provider, "destroy", lambda server_id, ask: False)
    task = lose(world, node_loss_reruns=1)
    world.run_until(lambda: world.task(task["id"])["finished"], "the run is over")
    took_s = world.run_until(lambda: world.task(task["id"])["run_number"] == 2, "it runs again")
    assert world.settings.signature_age_s - 10.0 < took_s < 2 * world.settings.signature_age_s


def test_on_this_machine_the_node_has_to_be_gone_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions outlive every silence: only when its processes are gone does the task begin again."""
    task = lose(world, node_loss_reruns=1)
    monkeypatch.setattr(world.provider, "destroy", lambda server_id, ask: False)
    world.run_until(lambda: world.task(task["id"])["finished"], "the run is over", limit_s=1000.0)
    assert world.task(task["id"])["error"]["detail"]["by"] == "unanswered"
    world.run_for(600.0)
    assert runs(world, task) == 1
    monkeypatch.undo()


def test_a_user_who_was_faster_is_not_overtaken(remote_world: World) -> None:
    """Cancelled at the moment it was given up, or run again by hand: nothing more is done."""
    world = remote_world
    task = lose(world, node_loss_reruns=1)

    def cancel(run_id: str, name: str) -> None:
        status = world.task(task["id"])["status"]
        if run_id == task["run_id"] and name.startswith("perform:running") and status == "in_progress":
            lost = (world.node().error or {}).get("code") == "node_lost"
            if lost and not world.task(task["id"])["cancel_requested"]:
                world.cancel(task["id"])

    world.at_checkpoint = cancel
    done = over(world, task)
    world.run_for(300.0)
    assert done["status"] in ("failed", "cancelled") and runs(world, task) == 1


def test_a_rerun_by_hand_takes_the_place_of_the_promised_one(remote_world: World) -> None:
    """One further run, not two."""
    world = remote_world
    task = lose(world, node_loss_reruns=1)
    sweep, world.app.sweeps["outbox"] = world.app.sweeps["outbox"], lambda memory: {}
    world.run_until(lambda: world.task(task["id"])["finished"], "the run is over")
    world.service.tasks.rerun(world.caller, task["id"])
    world.app.sweeps["outbox"] = sweep
    done = over(world, task)
    assert (done["status"], done["node_loss_reruns_done"], runs(world, task)) == ("completed", 0, 2)


def test_a_promise_that_is_delivered_twice_makes_one_run(remote_world: World) -> None:
    """The task's row says which run it was lost in."""
    world = remote_world
    task = lose(world, node_loss_reruns=3)
    world.run_until(lambda: world.task(task["id"])["run_number"] == 2, "it runs again")
    for _ in range(3):
        assert world.service.tasks.rerun_lost(task["id"], task["run_id"])
    assert over(world, task)["run_number"] == 2
    assert world.service.tasks.rerun_lost(task["id"], task["run_id"]), "nor when the further run has ended"
    assert runs(world, task) == 2


def test_a_promise_of_a_former_run_is_none_of_the_next(remote_world: World) -> None:
    """The further run failed by what its command did: that the run before was lost is no reason for a third."""
    world = remote_world
    task = lose(world, node_loss_reruns=3)
    world.plan.outcome = {"outcome": "exited", "exit_code": 1}
    assert over(world, task)["error"]["code"] == "command_failed"
    assert world.service.tasks.rerun_lost(task["id"], task["run_id"])
    world.run_for(300.0)
    assert (world.task(task["id"])["status"], runs(world, task)) == ("failed", 2)


PLACES = [
    f"{place}:{step}" for step in ("running", "cleanup") for place in ("perform", "performed", "applied", "committed")
]


@pytest.mark.parametrize("place", PLACES)
def test_a_crash_at_any_place_of_the_lost_run_makes_one_further_run(make_remote_world: MakeWorld, place: str) -> None:
    """The failure and the promise are one transaction; the promise is kept once."""
    world = make_remote_world(turn_max_steps=1)
    task = lose(world, node_loss_reruns=3)
    world.run_until(lambda: (world.node().error or {}).get("code") == "node_lost", "the verdict is made")
    world.crash_at(place, task["run_id"])
    done = over(world, task)
    assert (done["status"], done["run_number"], runs(world, task)) == ("completed", 2, 2)
    clear_lost(world)
    world.assert_settled()


@pytest.mark.parametrize("place", ["before", "committed", "started"])
def test_a_crash_while_the_promise_is_kept_makes_one_further_run(
    remote_world: World, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Before its transaction, after it, and after the new run was rung but before the promise was settled."""
    world = remote_world
    task = lose(world, node_loss_reruns=3)
    tasks, crashed = world.service.tasks, list[str]()
    start = tasks._starter.start

    def die(*_: Any) -> None:
        if not crashed:
            crashed.append(place)
            if place == "started":
                start(*_)
            raise Crash(place)
        start(*_)

    if place == "before":
        queue = tasks._queue
        monkeypatch.setattr(tasks, "_queue", lambda *a, **k: _die_once(crashed, queue, *a, **k))
    else:
        monkeypatch.setattr(tasks._starter, "start", die)
    outbox = world.app.sweeps["outbox"]

    def sweep(memory: Any) -> Any:
        try:
            return outbox(memory)
        except Crash:
            return {"crashed": 1}

    world.app.sweeps["outbox"] = sweep
    done = over(world, task)
    assert crashed and (done["status"], runs(world, task)) == ("completed", 2)


def _die_once(crashed: list[str], real: Any, *args: Any, **kwargs: Any) -> Any:
    if not crashed:
        crashed.append("before")
        raise Crash("before")
    return real(*args, **kwargs)
