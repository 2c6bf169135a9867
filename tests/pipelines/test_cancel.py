"""Cancel in every step: nothing new is bought or started, what runs is stopped, what exists is taken away, once."""

from __future__ import annotations

import itertools

import pytest

from taskflow.db.models import Node
from taskflow.errors import Conflict
from tests.pipelines.test_crashes import MATRIX, start
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

#: A cancel comes just before the step's call, between call and SQL write, between SQL write and Redis write.
PLACES = ("perform", "performed", "applied")
STEPS = [step for step in MATRIX if step != "cleanup"]


def cancel_at(world: World, checkpoint: str, task_id: str, run_id: str) -> list[int]:
    """Cancel when the run is at ``checkpoint``; how many requests and purchases had been made by then."""
    seen: list[int] = []

    def at(run: str, name: str) -> None:
        if run == run_id and name == checkpoint and not seen:
            seen.extend((sum(verb == "PUT" for verb, _ in world.wire.calls), sum(world.provider.bought.values())))
            world.cancel(task_id)

    world.at_checkpoint = at
    return seen


@pytest.mark.parametrize(("step", "place"), list(itertools.product(STEPS, PLACES)))
def test_a_cancel_at_any_place_of_any_step_ends_the_task_and_starts_nothing_more(
    make_world: MakeWorld, step: str, place: str
) -> None:
    """After the cancel no further request creates anything; the task is cancelled once and leaves nothing."""
    world = make_world(node_slots=1 if MATRIX[step] == "behind" else 4)
    task = start(world, MATRIX[step])
    seen = cancel_at(world, f"{place}:{step}", task["id"], task["run_id"])

    done = world.finish(task)

    puts = sum(verb == "PUT" for verb, _ in world.wire.calls)
    own_call = 1 if place == "perform" and step in ("workspace_dispatch", "agent_session") else 0
    assert done["status"] == "cancelled"
    assert world.statuses(task["id"]).count("cancelled") == 1
    assert puts <= seen[0] + own_call
    world.finish(*world.service.tasks.list(world.caller)[0])
    world.assert_settled()


def test_a_cancel_while_a_node_is_chosen_orders_none(world: World) -> None:
    """The intent to have a node is written only while no cancel is requested."""
    task = world.submit()
    cancel_at(world, "performed:node_selection", task["id"], task["run_id"])

    assert world.finish(task)["status"] == "cancelled"
    assert world.count(Node) == 0


def test_a_cancel_of_an_ended_task_is_refused_with_its_status(world: World) -> None:
    """Whichever end was written first stays."""
    task = world.submit()
    world.finish(task)

    with pytest.raises(Conflict) as refused:
        world.cancel(task["id"])

    assert refused.value.detail == {"status": "completed"}
    assert world.task(task["id"])["status"] == "completed"


def test_an_outcome_that_was_taken_before_the_cancel_wins(world: World) -> None:
    """The command had ended and its outcome was read; a cancel in that moment can't undo the work."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    cancel_at(world, "performed:running", task["id"], task["run_id"])
    world.agent.finish_session(next(iter(world.agent.sessions)))

    assert world.finish(task)["status"] == "completed"
    world.assert_settled()


def test_a_second_cancel_changes_nothing(world: World) -> None:
    """Asking twice is one request with one event."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.cancel(task["id"])
    world.cancel(task["id"])

    world.finish(task)

    assert [event["kind"] for event in world.events(task["id"])].count("cancel_requested") == 1


def test_a_crash_right_after_the_cancel_was_written_does_not_lose_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring after the cancel may die with its process: the row is found again."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    monkeypatch.setattr(world.app.ringer, "ring", lambda run_ids: None)  # the process ends before it rings
    world.cancel(task["id"])
    world.start_worker()

    took_s = world.run_until(lambda: world.task(task["id"])["finished"], "the cancel is acted on")

    assert world.task(task["id"])["status"] == "cancelled"
    assert took_s <= world.settings.liveness_poll_s


@pytest.mark.parametrize("place", ["perform:cleanup", "performed:cleanup", "applied:cleanup", "applied:running"])
def test_a_crash_during_the_end_of_a_cancelled_task_is_finished(world: World, place: str) -> None:
    """The status and the intent to clean up are one write, so the cleanup survives every crash."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.cancel(task["id"])
    world.crash_at(place, task["run_id"])

    assert world.finish(task)["status"] == "cancelled"
    assert world.crashes == [place]
    world.assert_settled()


def test_a_draft_is_cancelled_at_once(world: World) -> None:
    """A task without a run needs no runner to end it."""
    draft = world.submit(start=False)

    world.cancel(draft["id"])

    assert world.task(draft["id"])["status"] == "cancelled"
