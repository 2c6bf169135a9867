"""Crashes at every checkpoint, an emptied store at every checkpoint, and workers that wake up too late."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import Change
from taskflow.ids import RunId
from tests.engine.conftest import MakeRig
from tests.support.engine import External, Rig, SimulatedCrash, advance, toy
from tests.support.keys import assert_no_keys_left
from tests.support.waiting import wait_until


def buying(external: External) -> Pipeline:
    """Three steps: one plain, one that buys with an idempotency key, one that waits for an answer."""

    def buy(ctx: StepContext) -> Outcome:
        external.do(f"buy-{ctx.run.id}")
        return Advance(ctx.next_step, {"bought": True})

    def wait(ctx: StepContext) -> Outcome:
        found = ctx.take("answer")
        return AwaitSignal("answer") if found is None else Advance(ctx.next_step, {"answer": found.payload["n"]})

    return toy(
        Step("plain", advance), Step("buy", buy, guarded=True), Step("wait", wait, limit_s=600),
        Step("cleanup", lambda ctx: Done({"ok": True})),
    )  # fmt: skip


#: Every checkpoint that such a run passes, with how often: a test below holds this list against the runner.
PASSED = {
    "fired": 2, "continued": 3, "perform:plain": 1, "performed:plain": 1, "applied:plain": 1, "committed:buy": 1,
    "perform:buy": 1, "performed:buy": 1, "applied:buy": 1, "committed:wait": 1, "perform:wait": 2, "performed:wait": 2,
    "applied:wait": 2, "perform:cleanup": 1, "performed:cleanup": 1, "applied:cleanup": 1,
}  # fmt: skip
PLACES = [(name, nth) for name, count in PASSED.items() for nth in range(1, count + 1)]
#: Those that are passed only when each step is a turn of its own: otherwise Redis is not told of every step.
TOLD = [("committed:wait", 2), ("committed:cleanup", 1)]


class At:
    """Does something when a checkpoint is passed for the n-th time, and keeps the revs seen."""

    def __init__(self, rig: Rig, run_id: RunId, place: tuple[str, int] | None, act: Callable[[], object]) -> None:
        self.rig, self.run_id, self.place, self.act = rig, run_id, place, act
        self.passed: Counter[str] = Counter()
        self.revs: list[int] = []

    def __call__(self, name: str) -> None:
        """One checkpoint."""
        self.passed[name] += 1
        self.revs.append(self.rig.row(self.run_id).rev)
        if (name, self.passed[name]) == self.place:
            self.act()


def _crash() -> None:
    raise SimulatedCrash


def _play(rig: Rig, run_id: RunId, at: At, *, rescue: bool = False) -> None:
    """Run to the end: whatever dies is continued by another worker; the answer is sent once it is awaited."""
    rig.runner.checkpoint = at
    for _ in range(5):
        try:
            rig.run_alarms(until=lambda: rig.row(run_id).awaiting is not None, rescue=rescue)
            if rig.row(run_id).step == "wait":
                rig.signal(run_id, "answer", {"n": 42})
            rig.run_alarms(rescue=rescue)
            break
        except SimulatedCrash:
            rig.runner = rig.worker()
            rig.runner.checkpoint = at
    rig.rescue.reconcile()


def _assert_ended_once(rig: Rig, run_id: RunId, external: External, at: At) -> None:
    row = rig.row(run_id)
    assert row.finished_at is not None and row.error is None
    assert row.results == {"plain": 1, "bought": True, "answer": 42} and rig.result(run_id) == {"ok": True}
    assert [kind for kind, _ in rig.events(run_id)].count("run_finished") == 1
    assert [step for kind, step in rig.events(run_id) if kind == "step_entered"] == ["buy", "wait", "cleanup"]
    assert external.done == {f"buy-{run_id}"}
    assert at.revs == sorted(at.revs) and row.rev in (4, 5)  # 4: the answer came before it was awaited
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


def test_the_list_of_checkpoints_is_complete(make_rig: MakeRig) -> None:
    """A run without faults passes exactly the checkpoints that the matrix crashes at."""
    external = External()
    rig = make_rig(buying(external))
    run_id = rig.start()
    at = At(rig, run_id, None, _crash)
    _play(rig, run_id, at)
    _assert_ended_once(rig, run_id, external, at)
    assert external.calls[f"buy-{run_id}"] == 1
    assert dict(at.passed) == PASSED


@pytest.mark.parametrize("place", [*PLACES, *TOLD], ids=lambda place: f"{place[0]}-{place[1]}")
def test_a_crash_at_any_checkpoint_is_survived(make_rig: MakeRig, place: tuple[str, int]) -> None:
    """Another worker continues from the index alone: one end, one effect per key, nothing left behind."""
    external = External()
    rig = make_rig(buying(external))
    rig.configure(turn_max_steps=1 if place in TOLD else 50)
    run_id = rig.start()
    at = At(rig, run_id, place, _crash)
    _play(rig, run_id, at)
    assert at.passed[place[0]] >= place[1]
    _assert_ended_once(rig, run_id, external, at)


@pytest.mark.parametrize("place", [*PLACES, *TOLD], ids=lambda place: f"{place[0]}-{place[1]}")
def test_an_emptied_store_at_any_checkpoint_is_survived(make_rig: MakeRig, place: tuple[str, int]) -> None:
    """Redis loses everything in the middle of a turn: rebuilt from SQL, one end, one effect per key."""
    external = External()
    rig = make_rig(buying(external))
    rig.configure(turn_max_steps=1 if place in TOLD else 50)
    run_id = rig.start()
    at = At(rig, run_id, place, lambda: rig.client.flushall())
    _play(rig, run_id, at, rescue=True)
    assert at.passed[place[0]] >= place[1]
    _assert_ended_once(rig, run_id, external, at)


@pytest.mark.integration
@pytest.mark.parametrize("place", [("performed:buy", 1), ("applied:buy", 1), ("committed:buy", 1)])
def test_crashes_are_survived_on_real_servers(make_real_rig: MakeRig, place: tuple[str, int]) -> None:
    """The same on a real Valkey with both databases, in real time: the lease runs out and the pump rings."""
    external = External()
    rig = make_real_rig(buying(external))
    rig.settings = dataclasses.replace(rig.settings, lease_s=0.2, ring_grace_s=0.05)
    rig.control._lease_ms = 200
    run_id = rig.start()
    at = At(rig, run_id, place, _crash)
    rig.runner.checkpoint = at

    def ended() -> bool:
        rig.pump.tick()
        while rig.hints.alarms:
            alarm = rig.hints.alarms.pop(0)
            try:
                rig.runner.turn(alarm.run_id, alarm.generation)
            except SimulatedCrash:
                rig.runner = rig.worker()
                rig.runner.checkpoint = at
        if rig.row(run_id).step == "wait":
            rig.signal(run_id, "answer", {"n": 42})
        return rig.row(run_id).finished_at is not None

    wait_until(ended, "the run ended", timeout_s=20, poll_s=0.02)
    rig.rescue.reconcile()
    assert at.passed[place[0]] >= place[1]
    _assert_ended_once(rig, run_id, external, at)


@dataclasses.dataclass
class Shop:
    """Sells again to whoever asks again. ``while_looking`` is done once, between the look and the call of a step."""

    sold: list[str] = dataclasses.field(default_factory=list)
    while_looking: Callable[[], object] | None = None

    def pipeline(self) -> Pipeline:
        """One step that buys, in between it asks whether it may; one that gives back."""
        return toy(Step("buy", self._buy, guarded=True), Step("cleanup", self._give_back))

    def _buy(self, ctx: StepContext) -> Outcome:
        found, paused = list(self.sold), self.while_looking
        if paused is not None:
            self.while_looking = None
            paused()
        if not found:
            ctx.ensure_ours(uncancelled=True)
            self.sold.append(ctx.run.id)
        return Advance(ctx.next_step)

    def _give_back(self, ctx: StepContext) -> Outcome:
        ctx.ensure_ours()
        return Done({"sold": len(self.sold)})


def test_a_worker_that_wakes_between_its_look_and_its_call_does_not_call(make_rig: MakeRig) -> None:
    """Another one looked meanwhile, found nothing either, and bought: the first is refused before it buys again."""
    shop = Shop()
    rig = make_rig(shop.pipeline())
    run_id = rig.start()

    def pause() -> None:
        rig.shift(rig.settings.lease_s + 1)
        assert rig.worker().turn(run_id) == "finished"

    shop.while_looking = pause
    assert rig.fire() == "superseded"
    assert shop.sold == [run_id] and rig.result(run_id) == {"sold": 1}
    assert rig.errors(run_id) == []
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


@pytest.mark.parametrize("loss", ["the lease ran out", "the store was emptied", "somebody wrote the row"])
def test_who_lost_its_run_in_any_way_does_not_call(make_rig: MakeRig, loss: str) -> None:
    """Nobody has taken it over yet, or somebody wrote without the lease: the run is read again, and bought for once."""
    shop = Shop()
    rig = make_rig(shop.pipeline())
    run_id = rig.start()
    ways: dict[str, Callable[[], object]] = {
        "the lease ran out": lambda: rig.shift(rig.settings.lease_s + 0.001),
        "the store was emptied": lambda: rig.client.flushall(),
        "somebody wrote the row": lambda: rig.store.apply(
            rig.row(run_id), Change("buy", rig.clock.now(), entered=True, deadline_at=None)
        ),
    }
    shop.while_looking = ways[loss]
    assert rig.fire() == "superseded"
    assert shop.sold == [] and rig.row(run_id).finished_at is None
    rig.run_alarms()  # at once, also where the store was emptied: nobody has to find the run first
    assert shop.sold == [run_id] and rig.errors(run_id) == []


def test_a_cancel_that_comes_between_the_look_and_the_call_is_heard_before_it_buys(make_rig: MakeRig) -> None:
    """Nothing is bought for who no longer wants it; the cleanup, which asks as well, is not held up by the cancel."""
    shop = Shop()
    rig = make_rig(shop.pipeline())
    run_id = rig.start()
    shop.while_looking = lambda: rig.cancel(run_id, ring=False)
    assert rig.fire() == "superseded"
    rig.run_alarms()
    assert shop.sold == [] and rig.row(run_id).results == {"cancelled": True} and rig.result(run_id) == {"sold": 0}


def _paused(rig: Rig, run_id: RunId, expire: Callable[[], Any]) -> None:
    """One worker stops in the first step past its lease; a second one finishes the run; then the first wakes."""
    first = rig.worker()
    after: list[Any] = []

    def pause(name: str) -> None:
        if name == "performed:plain":
            expire()
            rig.hints.alarms.clear()
            assert rig.runner.turn(run_id) == ("finished" if rig.settings.turn_max_steps > 1 else "parked")
            after.extend([rig.row(run_id), rig.events(run_id)])

    first.checkpoint = pause
    alarm = rig.hints.alarms.pop()
    assert first.turn(run_id, alarm.generation) == "superseded"
    assert after == [rig.row(run_id), rig.events(run_id)]
    if rig.row(run_id).finished_at is None:
        alarm = rig.hints.alarms.pop()
        assert rig.runner.turn(run_id, alarm.generation) == "parked"
        assert rig.runner.turn(run_id) == "finished"
    assert rig.row(run_id).results == {"plain": 1, "more": 1} and rig.row(run_id).finished_at is not None
    assert_no_keys_left(rig.client, rig.settings.key_prefix)


@pytest.mark.parametrize("steps", [50, 1])
def test_a_worker_that_wakes_after_its_lease_changes_nothing(make_rig: MakeRig, steps: int) -> None:
    """The fence, after the run ended and while it goes on: the apply is superseded, row and history stay."""
    rig = make_rig(toy(Step("plain", advance), Step("more", advance)))
    rig.configure(turn_max_steps=steps)
    run_id = rig.start()
    _paused(rig, run_id, lambda: rig.shift(rig.settings.lease_s + 1))


@pytest.mark.integration
@pytest.mark.parametrize("steps", [50, 1])
def test_the_fence_holds_on_real_servers(make_real_rig: MakeRig, steps: int) -> None:
    """The same on a real Valkey and both databases."""
    rig = make_real_rig(toy(Step("plain", advance), Step("more", advance)))
    rig.configure(turn_max_steps=steps)
    rig.control._lease_ms = 50
    run_id = rig.start()

    def expire() -> None:
        wait_until(lambda: rig.state(run_id)["lease"] is None, "the lease ran out", poll_s=0.01)
        rig.control._lease_ms = 5000  # the others' turns may take as long as a busy machine needs

    _paused(rig, run_id, expire)
