"""Items of a sweep: pages that are fair, items that fail alone and rest, and a sweep that says when it did nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis
import structlog
from sqlalchemy import func, insert, select

from taskflow.db.models import Run, Sweep, SweepBackoff
from taskflow.errors import InfrastructureError, StepError
from taskflow.settings import Settings
from taskflow.sweeps.items import Items, failing_items, rest_s
from taskflow.sweeps.lateness import standings, warn_of_late_sweeps
from taskflow.sweeps.ledger import Memory, last_success_at, run_sweep
from taskflow.sweeps.prune import prune_all
from tests.db.conftest import World


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    """What was logged, kept instead of printed."""
    with structlog.testing.capture_logs() as found:
        yield found


class Sweeping:
    """A sweep over runs that fails at those in ``bad``; ``now`` is moved by the test."""

    def __init__(self, world: World, *, limit: int = 2, name: str = "s") -> None:
        self.database = world.database
        self.limit = limit
        self.name = name
        self.now = 1000.0
        self.bad: set[str] = set()
        self.treated: list[str] = []

    def __call__(self) -> dict[str, Any]:
        return run_sweep(self.database, self.name, self._sweep, lambda: self.now)

    def _sweep(self, memory: Memory) -> dict[str, Any]:
        items = Items(self.database, memory, lambda: self.now, self.limit)
        rows = items.page(select(Run.id).where(Run.finished_at.is_(None)), Run.id)
        return items.each(((row.id, row.id) for row in rows), self._treat)

    def _treat(self, run_id: str) -> bool:
        self.treated.append(run_id)
        if run_id in self.bad:
            raise StepError("no", code="refused")
        return True


@pytest.fixture
def sweeping(world: World) -> Sweeping:
    """Five runs to sweep, two in a page."""
    for number in range(5):
        world.run(f"run-{number}", f"task-{number}")
    return Sweeping(world)


def test_a_page_begins_after_the_last_one_and_wraps(sweeping: Sweeping) -> None:
    """Nobody is looked at twice while another was not looked at."""
    for _ in range(3):
        sweeping()
    assert sweeping.treated == [f"run-{number}" for number in range(5)]
    sweeping()
    assert sweeping.treated[5:] == ["run-0", "run-1"]


def test_items_that_fail_are_left_out_of_the_page_and_others_take_their_place(sweeping: Sweeping) -> None:
    """As many as fill a page fail for ever, and all the others are reached in each round."""
    sweeping.bad = {"run-0", "run-1"}
    assert sweeping() == {"done": 0, "failed": 2, "skipped": 0}
    for _ in range(2):
        sweeping()
    sweeping.treated.clear()
    assert sweeping() == {"done": 2, "failed": 0, "skipped": 2}
    assert sweeping() == {"done": 1, "failed": 0, "skipped": 2}
    assert sweeping.treated == ["run-2", "run-3", "run-4"]


def test_an_item_rests_longer_each_time_and_is_forgotten_when_it_succeeds(sweeping: Sweeping, logs: list[Any]) -> None:
    """A minute, doubled, an hour at most; its error is kept and said, the third time as an error."""
    sweeping.bad, sweeping.limit = {"run-0"}, 5
    rests = []
    for _ in range(8):
        assert sweeping()["failed"] == 1
        with sweeping.database.read() as tx:
            row = tx.execute(select(SweepBackoff.failures, SweepBackoff.next_at, SweepBackoff.error)).one()
        rests.append(row.next_at - sweeping.now)
        sweeping.now = row.next_at - 1.0
        assert sweeping()["skipped"] == 1
        sweeping.now = row.next_at
    assert rests == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0] == [rest_s(n) for n in range(1, 9)]
    assert row.error["code"] == "refused"
    assert [one["log_level"] for one in logs if one["event"] == "sweep_item_failed"][:3] == ["warning"] * 2 + ["error"]
    assert failing_items(sweeping.database)["s"][0]["failures"] == 8
    sweeping.bad = set()
    assert sweeping() == {"done": 5, "failed": 0, "skipped": 0}
    assert failing_items(sweeping.database) == {}


def test_what_one_item_raises_ends_no_sweep_whatever_it_is(sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of ours, or a mistake in the code."""
    sweeping.limit = 5
    before = sweeping._treat

    def treat(run_id: str) -> bool:
        if run_id == "run-2":
            raise KeyError(run_id)
        return before(run_id)

    monkeypatch.setattr(sweeping, "_treat", treat)
    assert sweeping() == {"done": 4, "failed": 1, "skipped": 0}
    assert failing_items(sweeping.database)["s"][0]["error"]["code"] == "unexpected"


@pytest.mark.parametrize("away", [redis.ConnectionError("away"), InfrastructureError("away")])
def test_a_store_that_is_away_is_no_items_fault(
    sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch, away: Exception
) -> None:
    """The sweep fails, and no item rests for it."""

    def treat(_: str) -> bool:
        raise away

    monkeypatch.setattr(sweeping, "_treat", treat)
    with pytest.raises(type(away)):
        sweeping()
    assert failing_items(sweeping.database) == {}
    assert last_success_at(sweeping.database, "s") is None


def test_a_sweep_that_fails_at_all_its_items_did_not_succeed(sweeping: Sweeping) -> None:
    """Nor while they rest; with one done beside them it is degraded, and without any it is well (L-89)."""
    intervals = {"s": 60.0}
    sweeping.limit, sweeping.bad = 5, {f"run-{number}" for number in range(5)}
    sweeping()
    sweeping()
    assert last_success_at(sweeping.database, "s") is None
    (one,) = standings(sweeping.database, intervals, sweeping.now)
    assert (one.failures, one.degraded) == (2, True)
    sweeping.now += 60.0
    sweeping.bad = {"run-0"}
    sweeping()
    assert last_success_at(sweeping.database, "s") == sweeping.now
    (one,) = standings(sweeping.database, intervals, sweeping.now)
    assert (one.failures, one.degraded) == (0, True)
    sweeping.now += 120.0
    sweeping.bad = set()
    sweeping()
    (one,) = standings(sweeping.database, intervals, sweeping.now)
    assert one.degraded is False


def test_two_sweeps_rest_their_own_items(world: World) -> None:
    """What fails at one is another's to try."""
    world.run("run-1", "task-1")
    first, second = Sweeping(world, name="first"), Sweeping(world, name="second")
    first.bad = {"run-1"}
    first()
    assert second() == {"done": 1, "failed": 0, "skipped": 0}
    assert first() == {"done": 0, "failed": 0, "skipped": 1}


def test_a_sweep_out_of_time_goes_on_where_it_stopped(sweeping: Sweeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow items end its turn, not the others'."""
    sweeping.limit = 5
    before = sweeping._treat

    def slow(run_id: str) -> bool:
        sweeping.now += 40.0
        return before(run_id)

    monkeypatch.setattr(sweeping, "_treat", slow)
    for _ in range(2):
        assert sweeping()["done"] == 2
    assert sweeping()["done"] == 1
    assert sweeping.treated == [f"run-{number}" for number in range(5)]


def test_choosing_goes_round_among_those_that_are_awake(world: World) -> None:
    """Things that are no rows, servers for instance, have turns too."""
    memory = Memory(name="s")
    items = Items(world.database, memory, lambda: 1000.0, 10)
    found = {name: name.upper() for name in ("d", "a", "c", "b", "e")}

    def chosen() -> list[str]:
        return [item for _, item in items.choose(found, 2)]

    assert (chosen(), chosen(), chosen()) == (["A", "B"], ["C", "D"], ["E", "A"])
    values = [{"sweep": "s", "item": name, "failures": 1, "next_at": 1001.0, "error": {}} for name in "bc"]
    world.write(lambda tx: tx.execute(insert(SweepBackoff), values))
    assert (chosen(), chosen()) == (["D", "E"], ["A", "D"])
    assert items.choose({}, 2) == []


def test_what_was_not_met_for_a_day_is_forgotten(world: World, settings: Settings) -> None:
    """And what rests, or came due lately, is kept."""
    day = 86_400.0
    values = [
        {"sweep": "s", "item": item, "failures": 3, "next_at": at, "error": {}}
        for item, at in (("gone", 9 * day - 1), ("due", 9.5 * day), ("rests", 11 * day))
    ]
    world.write(lambda tx: tx.execute(insert(SweepBackoff), values))
    assert prune_all(world.database, settings, 10 * day)["backoffs"] == 1
    with world.database.read() as tx:
        assert set(tx.execute(select(SweepBackoff.item)).scalars()) == {"due", "rests"}


def test_who_does_not_succeed_for_three_intervals_is_said_once_in_each(world: World, logs: list[Any]) -> None:
    """One that never succeeded counts from when it was first known; a paused one and the watcher itself are left out."""
    intervals = {"rescue": 5.0, "quick": 5.0, "slow": 100.0, "never": 100.0, "paused": 100.0}
    for name in ("quick", "slow"):
        run_sweep(world.database, name, lambda memory: {}, lambda: 1000.0)
    said: list[tuple[float, list[str]]] = []
    for at in range(1000, 1700, 10):

        def rescue(memory: Memory, at: float = float(at)) -> dict[str, Any]:
            found = warn_of_late_sweeps(world.database, intervals, {"paused"}, memory, at)
            if found:
                said.append((at, found))
            raise ValueError("no")  # its own failure loses nothing of what it said

        with pytest.raises(ValueError, match="no"):
            run_sweep(world.database, "rescue", rescue, partial(float, at))
    when = {name: [at for at, names in said if name in names] for name in intervals}
    assert when["quick"][:3] == [1040.0, 1070.0, 1100.0]
    assert when["slow"] == when["never"] == [1310.0, 1410.0, 1510.0, 1610.0]
    assert when["rescue"] == when["paused"] == []
    assert sum(one["event"] == "sweep_late" for one in logs) == sum(len(names) for _, names in said)
    run_sweep(world.database, "slow", lambda memory: {}, lambda: 1700.0)
    assert [one.name for one in standings(world.database, intervals, 1701.0) if one.late and one.name != "paused"] == [
        "rescue", "quick", "never",
    ]  # fmt: skip
    with world.database.read() as tx:
        assert tx.execute(select(func.count()).select_from(Sweep)).scalar_one() == 3
