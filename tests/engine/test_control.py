"""The scripts: who may start a turn, who may commit, and when the index looks again."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from typing import Any

import pytest
from redis.crc import key_slot

from taskflow.engine.alarms import Pump, Ringer
from taskflow.engine.control import Alarm, Control, Standing, alarm_of
from taskflow.engine.pipeline import Step
from taskflow.engine.store import RunRow
from taskflow.ids import RunId
from tests.engine.conftest import MakeRig
from tests.support.engine import Hints, Rig, advance, toy
from tests.support.keys import keys_left
from tests.support.waiting import wait_until

PIPELINE = toy(Step("one", advance), Step("two", advance))


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig with two plain steps."""
    return make_rig(PIPELINE)


def _score(rig: Rig, run_id: RunId) -> float:
    found = rig.state(run_id)["alarm_at"]
    assert found is not None
    return float(found) - rig.clock.now()


def test_fire_says_why_an_alarm_is_dropped(rig: Rig) -> None:
    """Missing, busy, stale and early alarms start nothing; only a due one of the right generation goes."""
    control = rig.control
    run_id = rig.insert()
    assert control.fire(run_id, "", "t").verdict == "missing"
    (alarm,) = control.ensure([rig.row(run_id)])
    assert control.fire(run_id, "12", "t").verdict == "stale"
    assert control.fire(run_id, alarm.generation, "first").verdict == "go"
    assert control.fire(run_id, alarm.generation, "second").verdict == "busy"
    parked = control.commit(run_id, "first", Standing("one", 0), delay_s=10, keep=True)
    early = control.fire(run_id, parked.generation, "third")
    assert (early.verdict, round(early.due - early.now)) == ("early", 10)
    assert control.fire(run_id, alarm.generation, "third").verdict == "stale"


def test_commit_without_the_lease_is_fenced_and_changes_nothing(rig: Rig) -> None:
    """A turn whose lease ran out and was taken by another can neither commit nor renew."""
    control, run_id = rig.control, rig.start()
    assert control.fire(run_id, "", "old").verdict == "go"
    assert control.fire(run_id, "", "new").verdict == "busy"
    rig.shift(rig.settings.lease_s + 0.01)
    assert control.fire(run_id, "", "new").verdict == "go"
    before = rig.state(run_id)
    assert not control.renew(run_id, "old")
    assert control.commit(run_id, "old", Standing("two", 9), delay_s=0, keep=True).verdict == "fenced"
    assert rig.state(run_id) == before
    assert control.commit(run_id, "new", Standing("two", 1), delay_s=0, keep=False).verdict == "parked"


def test_a_turn_is_rung_when_its_lease_ends_and_not_before(rig: Rig) -> None:
    """What takes a lease moves the alarm to its end: fire does, and each commit that keeps it."""
    control, run_id, s = rig.control, rig.start(), rig.settings
    control.fire(run_id, "", "t")
    rig.hints.alarms.clear()
    for rev in range(3):
        assert s.lease_s < _score(rig, run_id) < s.lease_s + s.ring_grace_s
        rig.shift(s.lease_s * 0.9)
        assert rig.pump.tick() == 0
        assert control.commit(run_id, "t", Standing("two", rev), delay_s=0, keep=True).verdict == "kept"
    rig.shift(s.lease_s + 0.101)
    assert rig.pump.tick() == 1


def test_renewal_moves_the_index_entry_with_the_lease(rig: Rig) -> None:
    """While a lease is renewed nobody rings the run; when it is not, the index rings just after the lease."""
    control, run_id, s = rig.control, rig.start(), rig.settings
    control.fire(run_id, "", "t")
    rig.hints.alarms.clear()
    for _ in range(5):
        rig.shift(s.lease_s * 0.9)
        assert control.renew(run_id, "t")
        assert rig.pump.tick() == 0
    assert s.lease_s < _score(rig, run_id) < s.lease_s + s.ring_grace_s
    rig.shift(s.lease_s + 0.101)
    assert rig.pump.tick() == 1


@pytest.mark.parametrize(("delay_s", "score_s"), [(3.0, 3.2), (15.0, 15.2), (15.5, 0.5), (3600.0, 3585.0)])
def test_near_alarms_are_indexed_after_the_grace_and_far_ones_before_the_window(
    rig: Rig, delay_s: float, score_s: float
) -> None:
    """A near alarm is published now and looked at when it failed to fire; a far one when its window begins."""
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    rig.control.commit(run_id, "t", Standing("one", 0), delay_s=delay_s, keep=True)
    assert _score(rig, run_id) == pytest.approx(score_s, abs=1e-4)


def test_a_far_alarm_is_rung_with_the_countdown_that_is_left(rig: Rig) -> None:
    """The pump publishes a far alarm when its window begins, and again if it did not fire within the grace."""
    run_id = rig.start()
    rig.hints.alarms.clear()
    rig.control.fire(run_id, "", "t")
    rig.control.commit(run_id, "t", Standing("one", 0), delay_s=100, keep=True)
    assert rig.pump.tick() == 0
    rig.shift(85.5)
    assert rig.pump.tick() == 1
    assert rig.pump.tick() == 0
    assert rig.hints.alarms.pop().countdown_s == pytest.approx(14.5, abs=1e-3)
    rig.shift(14.5 + rig.settings.ring_grace_s + 0.001)
    assert rig.pump.tick() == 1
    assert rig.hints.alarms.pop().countdown_s == 0


def test_an_alarm_set_to_now_inside_a_turn_is_not_lost(rig: Rig) -> None:
    """Re-armed at or before now, a run is rung again, kept or not."""
    for delay_s in (0.0, -5.0):
        run_id = rig.start()
        rig.control.fire(run_id, "", "t")
        kept = rig.control.commit(run_id, "t", Standing("two", 1), delay_s=delay_s, keep=True)
        assert kept.verdict == "kept"
        parked = rig.control.commit(run_id, "t", Standing("two", 2), delay_s=delay_s, keep=False)
        assert parked.verdict == "parked" and parked.due <= parked.now
        assert _score(rig, run_id) <= rig.settings.ring_grace_s + 1e-4
        assert rig.control.fire(run_id, parked.generation, "u").verdict == "go"


def test_a_signal_during_a_turn_brings_it_back_at_once(rig: Rig) -> None:
    """The commit sees the wake flag, whatever delay the turn decided on; the next commit does not."""
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    assert rig.control.signal(run_id) is None
    kept = rig.control.commit(run_id, "t", Standing("one", 0), delay_s=500, keep=True)
    assert (kept.verdict, kept.woke) == ("kept", True)
    assert rig.control.signal(run_id) is None
    parked = rig.control.commit(run_id, "t", Standing("one", 0), delay_s=500, keep=False)
    assert (parked.verdict, parked.woke, parked.due - parked.now) == ("parked", True, 0)
    rig.control.fire(run_id, "", "u")
    slept = rig.control.commit(run_id, "u", Standing("one", 0), delay_s=500, keep=True)
    assert (slept.verdict, slept.woke) == ("parked", False)


def test_a_signal_pulls_a_parked_run_to_now(rig: Rig) -> None:
    """The alarm moves to now under a new generation, so that the old hint is stale."""
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    parked = rig.control.commit(run_id, "t", Standing("one", 0), delay_s=10, keep=True)
    alarm = rig.control.signal(run_id)
    assert alarm is not None and alarm.countdown_s == 0
    assert _score(rig, run_id) == pytest.approx(rig.settings.ring_grace_s, abs=1e-4)
    assert rig.control.fire(run_id, parked.generation, "u").verdict == "stale"
    assert rig.control.fire(run_id, alarm.generation, "u").verdict == "go"


def test_ensure_rebuilds_only_what_is_lost(rig: Rig) -> None:
    """A missing hash, a missing index entry and a lower rev are rebuilt; equal and higher ones are left alone."""
    control, run_id = rig.control, rig.start()
    row = rig.row(run_id)
    key, index = control.run_key(run_id), control.alarms_key(control.shard_of(run_id))
    for rev in (0, 7):
        rig.client.hset(key, "rev", rev)
        before = rig.state(run_id)
        assert control.ensure([row]) == [] and rig.state(run_id) == before
    rig.client.delete(key)
    assert len(control.ensure([row])) == 1 and rig.state(run_id)["state"]["rev"] == "0"
    rig.client.zrem(index, run_id)
    assert len(control.ensure([row])) == 1 and rig.state(run_id)["alarm_at"] is not None
    newer = dataclasses.replace(row, rev=4, step="two")
    assert len(control.ensure([newer])) == 1
    assert (rig.state(run_id)["state"]["rev"], rig.state(run_id)["state"]["step"]) == ("4", "two")


def test_ensure_leaves_a_turn_between_apply_and_commit_alone(rig: Rig) -> None:
    """A lower rev under a held lease is a turn at work, not a stale replica."""
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    before = rig.state(run_id)
    assert rig.control.ensure([dataclasses.replace(rig.row(run_id), rev=1, step="two")]) == []
    assert rig.state(run_id) == before


def test_a_rebuild_starts_at_a_random_generation(rig: Rig) -> None:
    """A hint from before the loss does not pass for the new one."""
    run_id = rig.start()
    seen = set()
    for _ in range(5):
        rig.client.delete(rig.control.run_key(run_id))
        seen.add(rig.control.ensure([rig.row(run_id)])[0].generation)
    assert len(seen) == 5


def test_forget_leaves_nothing_and_fences_a_late_holder(rig: Rig) -> None:
    """After forget no key of the run exists, and neither commit nor renew of its last lease makes one."""
    run_id = rig.start()
    rig.control.fire(run_id, "", "t")
    rig.control.forget(run_id)
    assert not rig.control.renew(run_id, "t")
    assert rig.control.commit(run_id, "t", Standing("two", 1), delay_s=0, keep=True).verdict == "missing"
    assert keys_left(rig.client, rig.settings.key_prefix) == []


def test_every_script_stays_in_one_hash_slot(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys given to a script, and those it builds from the base it is given, share a slot: cluster-safe."""
    seen: dict[str, list[set[int]]] = {}
    for name, script in rig.control._scripts.items():

        def spy(
            *, keys: list[str], args: list[Any], client: Any = None, _name: str = name, _script: Any = script
        ) -> Any:
            built = [f"{args[0]}:run:x", f"{args[0]}:lease:x"] if _name in ("pump", "ensure") else []
            seen.setdefault(_name, []).append({key_slot(key.encode()) for key in [*keys, *built]})
            return _script(keys=keys, args=args, client=client)

        monkeypatch.setitem(rig.control._scripts, name, spy)
    for _ in range(8):
        run_id = rig.start()
        rig.control.signal(run_id)
        rig.control.fire(run_id, "", "t")
        rig.control.renew(run_id, "t")
        rig.control.abandon(run_id, "another")
        rig.control.commit(run_id, "t", Standing("one", 0), delay_s=0, keep=False)
        rig.control.forget(run_id)
    rig.pump.tick()
    assert set(seen) == set(rig.control._scripts)
    assert all(len(slots) == 1 for calls in seen.values() for slots in calls)
    assert len({next(iter(slots)) for slots in seen["fire"]}) > 1


def test_pump_claims_oldest_first_and_nothing_while_the_queue_is_long(rig: Rig) -> None:
    """A backlog is not multiplied; an emptied queue is refilled, oldest alarm first."""
    rig.configure(shards=1)
    rig.control.shards = 1
    runs = []
    for _ in range(10):
        runs.append(rig.start())
        rig.shift(0.01)
    rig.hints.alarms.clear()
    rig.shift(5)
    rig.hints.waiting = 8
    assert rig.pump.tick() == 0
    rig.hints.waiting = 5
    assert rig.pump.tick() == 3
    assert [alarm.run_id for alarm in rig.hints.alarms] == runs[:3]


def _contend(work: Any, count: int) -> list[Any]:
    start = threading.Barrier(count)
    answers: list[Any] = []

    def one(number: int) -> None:
        start.wait(10)
        answers.append(work(number))

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


@pytest.mark.integration
def test_one_of_many_takes_the_lease(valkey: Any, settings: Any) -> None:
    """Sixteen workers fire the same alarm on a real server: one goes, the others find it busy."""
    control = _control(valkey.client, settings)
    (alarm,) = control.ensure([_row()])
    answers = _contend(lambda n: control.fire(RunId("run-1"), alarm.generation, f"t{n}").verdict, 16)
    assert Counter(answers) == {"go": 1, "busy": 15}


@pytest.mark.integration
def test_concurrent_pumps_claim_each_alarm_once(valkey: Any, settings: Any) -> None:
    """Eight pumps over two hundred due alarms of a real server ring each of them exactly once."""
    settings = dataclasses.replace(settings, ring_grace_s=30.0)
    control = _control(valkey.client, settings)
    rows = [_row(f"run-{n}") for n in range(200)]
    control.ensure(rows)
    for shard in range(control.shards):
        for run_id, _ in valkey.client.zrange(control.alarms_key(shard), 0, -1, withscores=True):
            valkey.client.zadd(control.alarms_key(shard), {run_id: 1.0})
    hints = [Hints() for _ in range(8)]
    pumps = [
        Pump(control, Ringer(control, h), h, interval_s=1, batch=7, backlog_max=100, on_tick=lambda a: None)
        for h in hints
    ]

    def drain(n: int) -> None:
        wait_until(lambda: pumps[n].tick() == 0, "the index is drained", poll_s=0.001)

    _contend(drain, 8)
    rung: Counter[str] = Counter(alarm.run_id for h in hints for alarm in h.alarms)
    assert len(rung) == 200 and set(rung.values()) == {1}


@pytest.mark.integration
def test_a_lease_of_a_real_server_runs_out(valkey: Any, settings: Any) -> None:
    """What was said about expiry in moved time is true of a real server: takeover, then the old holder is fenced."""
    control = _control(valkey.client, dataclasses.replace(settings, lease_s=0.15))
    control.ensure([_row()])
    run_id = RunId("run-1")
    assert control.fire(run_id, "", "old").verdict == "go"
    wait_until(lambda: control.fire(run_id, "", "new").verdict == "go", "the lease ran out", timeout_s=5)
    assert not control.renew(run_id, "old")
    assert control.commit(run_id, "old", Standing("two", 1), delay_s=0, keep=False).verdict == "fenced"


def _control(client: Any, s: Any) -> Control:
    return Control(
        client, prefix=s.key_prefix, shards=s.shards, lease_s=s.lease_s, near_window_s=s.near_window_s,
        ring_grace_s=s.ring_grace_s,
    )  # fmt: skip


def _row(run_id: str = "run-1") -> Any:
    return RunRow(
        id=RunId(run_id), pipeline="toy", version=1, subject_kind="toy", subject_id=run_id, number=1,
        owner_id="o", step="one", rev=0, step_entered_at=0.0, created_at=0.0,
    )  # fmt: skip


def test_a_broker_that_is_away_costs_only_time(rig: Rig) -> None:
    """A hint that can't be published raises nothing; the index rings after the grace."""
    rig.hints.broken = True
    run_id = rig.start()
    rig.ringer.ring([run_id])
    assert rig.hints.alarms == []
    rig.hints.broken = False
    rig.shift(rig.settings.ring_grace_s + 0.001)
    assert rig.pump.tick() == 1
    assert rig.hints.alarms == [Alarm(run_id, rig.hints.alarms[0].generation, 0.0, "toy.one")]


def test_every_alarm_says_what_it_is_an_alarm_of(rig: Rig) -> None:
    """Whichever way it comes to be: made, rung, pumped, sent on, taken over, or parked. It costs no read."""
    control, run_id = rig.control, rig.insert(subject="it")
    (made,) = control.ensure([rig.row(run_id)])
    rung = control.signal(run_id)
    rig.shift(rig.settings.ring_grace_s + 0.001)
    (pumped,) = [alarm for answer in control.pump(10) for alarm in answer.alarms]
    assert control.fire(run_id, "", "dead").subject == "toy:it"
    left = control.abandon(run_id, "dead")
    assert {alarm.subject for alarm in (made, rung, pumped, left) if alarm is not None} == {"toy:it"}
    assert (rung, left) != (None, None)
    assert alarm_of(rig.row(run_id), "1", 0.0).subject == "toy:it"


def test_control_state_of_an_earlier_release_is_rung_without_a_subject(rig: Rig) -> None:
    """It was made before there was one, and its run goes on all the same."""
    control, run_id = rig.control, rig.start()
    rig.client.hdel(control.run_key(run_id), "subject")
    rung = control.signal(run_id)
    assert rung is not None
    assert rung.subject == ""
    assert control.fire(run_id, "", "t").verdict == "go"
