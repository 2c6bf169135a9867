"""The numbers that a person looks at first."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Run, Task
from taskflow.service.overview import HOURS
from taskflow.testing import Kit
from tests.service.test_runs import GIVEN, WAIT
from tests.support.world import SPEC, World

_HOUR_S = 3600.0


def _ended(world: World, owner: str, status: str, *, ago_s: float, took_s: float, before_s: float = 0.0) -> None:
    """A task of ``owner`` that ended so long ago, whose run had taken so long, and which was made so long before that."""
    task, _ = world.service.tasks.submit(world.caller_of(owner), {**SPEC, "title": status})
    at = world.service.overview._now() - ago_s
    ended = {"status": status, "created_at": at - took_s - before_s, "completed_at": at}
    began = {"created_at": at - took_s}
    world.app.database.write(
        lambda tx: (
            tx.execute(update(Task).where(Task.id == task["id"]).values(**ended)),
            tx.execute(update(Run).where(Run.id == task["run_id"]).values(**began)),
        )
    )


def _numbers(world: World, owner: str) -> dict[str, Any]:
    found: dict[str, Any] = world.service.overview.numbers(world.caller_of(owner))
    return found


def test_the_numbers_are_those_of_one_owner(world: World) -> None:
    """What another one's tasks do is in none of them."""
    world.service.tasks.submit(world.caller_of("somebody"), SPEC)
    _ended(world, "somebody", "failed", ago_s=0, took_s=1)
    nobody = _numbers(world, "somebody-else")
    assert set(nobody["open"].values()) == {0} and nobody["failed"] == [] and nobody["failed_count"] == 0
    assert sum(hour[status] for hour in nobody["hours"] for status in ("completed", "failed", "cancelled")) == 0


def test_durations_are_those_of_what_completed(world: World) -> None:
    """A task that failed at once, or hung for a day, says nothing of how long the work takes."""
    for took_s in (10.0, 30.0):
        _ended(world, "somebody", "completed", ago_s=0, took_s=took_s)
    _ended(world, "somebody", "failed", ago_s=0, took_s=5000)
    _ended(world, "somebody", "cancelled", ago_s=0, took_s=7000)
    last = _numbers(world, "somebody")["hours"][-1]
    assert (last["completed"], last["failed"], last["cancelled"]) == (2, 1, 1)
    assert last["mean_s"] == pytest.approx(20.0) and last["longest_s"] == pytest.approx(30.0)


def test_a_task_that_ran_again_took_as_long_as_its_last_run(world: World) -> None:
    """What passed before somebody ran it again is nobody's work."""
    _ended(world, "somebody", "completed", ago_s=0, took_s=10, before_s=5000)
    assert _numbers(world, "somebody")["hours"][-1]["longest_s"] == pytest.approx(10.0)


def test_each_end_is_in_its_hour_and_a_day_is_all(world: World) -> None:
    """The present hour is the last; what ended before the first is in none."""
    into_the_hour_s = world.service.overview._now() % _HOUR_S
    _ended(world, "somebody", "completed", ago_s=into_the_hour_s + 1, took_s=1)
    _ended(world, "somebody", "completed", ago_s=into_the_hour_s + (HOURS - 1) * _HOUR_S - 1, took_s=1)
    _ended(world, "somebody", "completed", ago_s=into_the_hour_s + (HOURS - 1) * _HOUR_S + 1, took_s=1)
    numbers = _numbers(world, "somebody")
    assert [number for number, hour in enumerate(numbers["hours"]) if hour["completed"]] == [0, HOURS - 2]
    assert len(numbers["hours"]) == HOURS


def test_runs_of_own_pipelines_are_in_the_numbers() -> None:
    """Open ones by what they do, and what ended within the day in its hour; what a cancel ended did not fail."""
    with Kit(WAIT) as kit:
        waits, fails, ends, cancelled = (kit.start("wait", GIVEN) for _ in range(4))
        fails.signal("go", {"fail": True})
        ends.signal("go", {})
        cancelled.cancel()
        kit.settle()
        numbers = kit.service.overview.numbers(kit.caller)
        assert numbers["open_runs"] == {"running": 0, "waiting": 1} and waits.status == "waiting"
        (hour,) = [one for one in numbers["hours"] if one["completed"]]
        assert (hour["completed"], hour["failed"], hour["cancelled"]) == (1, 1, 1) and hour["mean_s"] is not None
        assert [run["id"] for run in numbers["failed_runs"]] == [fails.id] and numbers["failed_count"] == 1
        other = kit.service.overview.numbers(kit.service.accounts.acting_for("bob", name="test"))
        assert other["open_runs"] == {"running": 0, "waiting": 0} and other["failed_runs"] == []
        assert other["failed_count"] == 0
