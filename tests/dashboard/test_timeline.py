"""The drawings of a run: every second of it is in one bar, and what went wrong is where it went wrong."""

from __future__ import annotations

import time
from typing import Any

from tests.support.world import World
from tests.support.world_fixtures import make_world, migrated_file, world  # noqa: F401  fixtures
from web.dashboard.drawings import CHART_HEIGHT, diagram, diagrams, lengths, stacked
from web.dashboard.timeline import BARS_MAX, WIDTH, Timeline, timeline


def _drawn(world: World, task: dict[str, Any]) -> Timeline:  # noqa: F811
    run = world.service.lookups.runs(world.caller, task["id"])[0]
    return timeline(world.events(task["id"]), run, time.time())


def test_the_bars_of_a_run_are_its_steps_without_a_gap(world: World) -> None:  # noqa: F811
    """As the engine writes them: each bar begins where the one before ended, and together they are the whole run."""
    task = world.submit()
    world.finish(task)
    drawn = _drawn(world, task)
    assert [bar.step for bar in drawn.bars] == ["node_selection", *world.steps(task["id"])]
    assert {bar.state for bar in drawn.bars} == {"done"} and drawn.left_out == 0
    for before, after in zip(drawn.bars, drawn.bars[1:], strict=False):
        assert abs(before.ended - after.began) < 0.01
    assert abs(sum(bar.seconds for bar in drawn.bars) - drawn.total_s) < 0.01
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH + 0.01 for bar in drawn.bars)
    running = next(bar for bar in drawn.bars if bar.step == "running")
    assert [mark.says for mark in running.marks] == ["signal session_outcome came"]


def test_a_run_under_way_ends_in_what_it_does_now(world: World) -> None:  # noqa: F811
    """Its bar grows; a cancel is marked in it."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.run_for(30)
    world.service.tasks.cancel(world.caller, task["id"], "enough")
    last = _drawn(world, task).bars[-1]
    assert (last.step, last.state) == ("running", "now") and last.seconds >= 29
    assert [mark.says for mark in last.marks if mark.kind == "cancel"] == ["cancel requested by api:test: enough"]


def test_a_run_that_did_not_begin_has_one_bar(world: World) -> None:  # noqa: F811
    """It is at its first step."""
    (bar,) = _drawn(world, world.submit()).bars
    assert (bar.step, bar.state) == ("node_selection", "now")


def test_a_step_that_failed_is_red_and_says_why(world: World) -> None:  # noqa: F811
    """The error is of the step that was left, not of the cleanup that followed."""
    world.plan.workspace_error = {"code": "clone_failed", "message": "no such repository"}
    task = world.submit()
    world.finish(task)
    drawn = _drawn(world, task)
    failed = [bar for bar in drawn.bars if bar.state == "failed"]
    assert [(bar.step, bar.error) for bar in failed] == [("workspace_ready", "no such repository")]
    assert drawn.states["cleanup"] == "done"


def test_the_bars_of_a_second_run_are_its_own(world: World) -> None:  # noqa: F811
    """It begins where it began: what the first run did stands in the drawing of that one alone."""
    world.plan.workspace_error = {"code": "clone_failed", "message": "no such repository"}
    task = world.submit()
    world.finish(task)
    world.plan.workspace_error = None
    world.service.tasks.rerun(world.caller, task["id"])
    drawn = _drawn(world, task)
    assert [(bar.step, bar.state) for bar in drawn.bars] == [("node_selection", "now")]
    world.finish(task)
    drawn = _drawn(world, task)
    assert {bar.state for bar in drawn.bars} == {"done"}
    assert [bar.step for bar in drawn.bars].count("node_selection") == 1


def test_a_step_that_a_cancel_came_upon_is_not_done(world: World) -> None:  # noqa: F811
    """Nor did it fail; the cleanup after it is done."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.service.tasks.cancel(world.caller, task["id"], "enough")
    world.finish(task)
    drawn = _drawn(world, task)
    assert (drawn.states["agent_session"], drawn.states["running"], drawn.states["cleanup"]) == (
        "done",
        "cancelled",
        "done",
    )
    assert "cancel" in drawn.kinds


def test_attempts_are_marks_and_a_long_history_is_cut() -> None:
    """The newest stays are drawn; how many were left out is said."""
    run = {"id": "r", "created_at": "2026-01-01T00:00:00.000Z", "finished_at": None, "step": "a"}
    events = []
    for number in range(BARS_MAX + 5):
        at = f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}.000Z"
        failed = {"attempt": number, "message": "no", "retry_in_s": 1.0}
        events.append({"run_id": "r", "kind": "step_failed", "step": "a", "at": at, "data": failed, "actor": "runner"})
        left = {"from": "a", "duration_s": 1.0}
        events.append({"run_id": "r", "kind": "step_entered", "step": "a", "at": at, "data": left, "actor": "runner"})
    drawn = timeline([*events, {**events[0], "run_id": "another"}], run, 1767225600.0 + 100)
    assert (len(drawn.bars), drawn.left_out) == (BARS_MAX, 6)
    assert all(len(bar.attempts) == 1 and 0 < bar.attempts[0].x < WIDTH for bar in drawn.bars[:-1])
    assert drawn.bars[0].attempts[0].says.endswith("failed: no; again in 1.0 s")


def test_every_bar_lies_within_the_axis() -> None:
    """Times are told in milliseconds and lengths exactly: what a short run's first step took seems to begin before it."""
    run = {
        "id": "r",
        "created_at": "2026-01-01T00:00:00.001Z",
        "finished_at": "2026-01-01T00:00:00.003Z",
        "step": "end",
    }
    at = "2026-01-01T00:00:00.003Z"
    left = [("step_entered", "first", 0.0029), ("step_entered", "second", 0.0001), ("run_finished", "end", 0.0)]
    events = [
        {"run_id": "r", "kind": kind, "step": None, "at": at, "data": {"from": name, "duration_s": took}, "actor": "x"}
        for kind, name, took in left
    ]
    bars = timeline(events, run, 1767225600.0).bars
    assert [bar.step for bar in bars] == ["first", "second", "end"]
    for bar in bars:
        assert bar.x >= 0 and bar.width > 0 and bar.x + bar.width <= WIDTH + 0.01, bar


def test_a_step_that_was_left_long_ago_is_not_called_never_entered() -> None:
    """Its stay is no longer drawn, but the diagram knows it."""
    run = {"id": "r", "created_at": "2026-01-01T00:00:00.000Z", "finished_at": None, "step": "loop"}
    froms = ["first"] + ["loop"] * (BARS_MAX + 5)
    events = [
        {"run_id": "r", "kind": "step_entered", "step": "loop", "at": f"2026-01-01T00:{number:02d}:{number % 2:02d}.000Z",
         "data": {"from": name, "duration_s": 1.0}, "actor": "runner"}
        for number, name in enumerate(froms[:59])
    ]  # fmt: skip
    events += [{**events[-1], "data": {"from": "loop", "duration_s": 1.0}} for _ in range(BARS_MAX)]
    drawn = timeline(events, run, 1767225600.0 + 7200)
    assert "first" not in {bar.step for bar in drawn.bars}
    assert drawn.states == {"first": "done", "loop": "now"}


def test_the_stay_under_way_begins_where_it_began_though_its_beginning_is_not_read() -> None:
    """Of a long history only the newest events are read: without any of a step being entered it is told since when."""
    run = {"id": "r", "created_at": "2026-01-01T00:00:00.000Z", "finished_at": None, "step": "a"}
    (bar,) = timeline([], run, 1767225600.0 + 7200, since="2026-01-01T01:59:00.000Z").bars
    assert (bar.step, bar.state, bar.seconds) == ("a", "now", 60.0)


def test_charts_are_as_high_as_their_highest_bar_and_empty_without_numbers() -> None:
    """Nothing is divided by nothing."""
    nothing: dict[str, Any] = {"completed": 0, "failed": 0, "cancelled": 0, "mean_s": None, "longest_s": None}
    assert stacked([nothing] * 24) == ([], 0) and lengths([nothing] * 24) == ([], 0.0)
    some = {**nothing, "completed": 3, "failed": 1, "mean_s": 5.0, "longest_s": 10.0}
    bars, most = stacked([nothing, some])
    assert most == 4 and sum(bar.height for bar in bars) == CHART_HEIGHT and min(bar.y for bar in bars) == 0
    assert [(bar.kind, bar.height) for bar in lengths([some])[0]] == [("longest", 100.0), ("mean", 50.0)]


def test_the_diagram_has_every_step_of_the_pipeline_and_its_way(world: World) -> None:  # noqa: F811
    """Those that a release skips are there, and drawn as such."""
    steps = world.service.lookups.steps()
    drawn = diagram(steps, {"running": "now"}, 4)
    states = {box.name: box.state for box in drawn.boxes}
    assert len(drawn.boxes) == len(steps) == len(drawn.lines) + 1
    assert (states["running"], states["attachment_transfer"], states["cleanup"]) == ("now", "skipped", "ahead")
    assert all(0 < box.x < drawn.width and 0 < box.y < drawn.height for box in drawn.boxes)


def test_the_diagram_fits_a_phone_and_its_states_are_told_without_colours(world: World) -> None:  # noqa: F811
    """In two columns, with a sign in each box that was entered; a name that is too long for its box is cut."""
    states = {"a": "done", "b": "failed", "c": "cancelled", "d" * 40: "now"}
    steps = [{"name": name, "skip": False} for name in (*states, "e")]
    drawn = diagrams(steps, states)
    assert len({box.x for box in drawn["narrow"].boxes}) == 2 and drawn["narrow"].width < drawn["wide"].width / 2
    labels = [box.label for box in drawn["narrow"].boxes]
    assert len({label[0] for label in labels[:4]}) == 4 and labels[4] == "e"
    assert labels[0].endswith(" a") and len(labels[3]) < 30


def test_the_numbers_of_a_day_count_what_ended_when(world: World) -> None:  # noqa: F811
    """By the hour in which it ended, with how long it took; what is open is counted by its status."""
    for outcome, hours in ((0, 0), (0, 2), (3, 0)):
        world.plan.outcome = {**world.plan.outcome, "exit_code": outcome}
        world.finish(world.submit())
        world.run_for(hours * 3600.0)
    world.submit(start=False)
    found = world.service.overview.numbers(world.caller)
    ended = [hour for hour in found["hours"] if hour["completed"] or hour["failed"]]
    assert sum(hour["completed"] for hour in ended) == 2 and found["failed_count"] == 1
    assert len(ended) == 2 and ended[-1] is found["hours"][-1] and ended[0] is found["hours"][-3]
    assert 5 < ended[0]["mean_s"] <= ended[0]["longest_s"] < 60
    assert found["open"] == {"draft": 1, "ready": 0, "queued": 0, "delegated": 0, "in_progress": 0}
    assert world.service.overview.numbers(world.caller_of("bob"))["failed_count"] == 0
