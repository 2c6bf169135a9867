"""Random orders of faults against the real runner: whatever happens, a run ends once and leaves nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import fakeredis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow.ids import RunId
from taskflow.settings import Settings
from tests.engine.test_crashes import buying
from tests.support.engine import External, Rig, SimulatedCrash, moved_time
from tests.support.keys import assert_no_keys_left

ACTIONS = st.one_of(
    st.sampled_from(
        ["fire", "fire", "lose", "repeat", "signal", "record", "flush", "pump", "rescue", "shift", "expire"]
    ),
    st.tuples(st.just("crash"), st.integers(1, 12)),
    st.tuples(st.just("pause"), st.integers(1, 12)),
)


class Player:
    """Plays actions on a run, and holds after each that ``rev`` never went back."""

    def __init__(self, rig: Rig, run_id: RunId) -> None:
        self.rig, self.run_id, self.rev = rig, run_id, 0
        self.answered = False

    def turn(self, fault: str = "", nth: int = 0) -> None:
        """Fire a hint (or none of a generation); at the n-th checkpoint crash, or be paused while another works."""
        passed = 0
        worker = self.rig.worker()

        def at(name: str) -> None:
            nonlocal passed
            passed += 1
            if passed == nth and fault == "crash":
                raise SimulatedCrash
            if passed == nth and fault == "pause":
                self.rig.shift(self.rig.settings.lease_s + 0.01)
                self.rig.worker().turn(self.run_id)

        worker.checkpoint = at
        generation = self.rig.hints.alarms.pop(0).generation if self.rig.hints.alarms else ""
        try:
            worker.turn(self.run_id, generation)
        except SimulatedCrash:
            pass

    def answer(self, *, ring: bool) -> None:
        """The callback: recorded while the run is open, and rung or not."""
        if self.rig.row(self.run_id).finished_at is None:
            self.rig.record(self.run_id, "answer", {"n": 42})
            self.answered = True
        if ring:
            self.rig.ringer.ring([self.run_id])

    def play(self, action: str | tuple[str, int]) -> None:
        """One action."""
        rig = self.rig
        if isinstance(action, tuple):
            self.turn(*action)
        elif action == "fire":
            self.turn()
        elif action == "lose":
            rig.hints.alarms.clear()
        elif action == "repeat":
            rig.hints.alarms += rig.hints.published[-2:]
        elif action in ("signal", "record"):
            self.answer(ring=action == "signal")
        elif action == "flush":
            rig.client.flushall()
        elif action == "pump":
            rig.watch.saw(rig.control.pump(0))
            rig.pump.tick()
        elif action == "rescue":
            rig.rescue.page()
        else:
            rig.shift(0.3 if action == "shift" else rig.settings.lease_s + 0.3)
        rev = rig.row(self.run_id).rev
        assert rev >= self.rev
        self.rev = rev


@settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(actions=st.lists(ACTIONS, max_size=25))
def test_any_order_of_faults_ends_once(sqlite_template: Path, actions: list[str | tuple[str, int]]) -> None:
    """Crashes, pauses past the lease, lost and repeated hints, signals and emptied stores in any order."""
    external = External()
    with tempfile.TemporaryDirectory() as folder, moved_time() as traveller:
        path = Path(folder) / "toy.db"
        shutil.copyfile(sqlite_template, path)
        toys = Settings(lease_s=1.0, ring_grace_s=0.2, key_prefix="tf-any")
        with fakeredis.FakeRedis(server=fakeredis.FakeServer()) as client:
            rig = Rig(f"sqlite:///{path}", client, toys, buying(external))
            rig.traveller = traveller
            try:
                run_id = rig.start()
                player = Player(rig, run_id)
                for action in actions:
                    player.play(action)
                if not player.answered:
                    player.answer(ring=False)
                rig.shift(2 * toys.lease_s)
                rig.run_alarms(rescue=True)
                rig.rescue.reconcile()
                row = rig.row(run_id)
                assert row.finished_at is not None and row.error is None
                assert row.results == {"plain": 1, "bought": True, "answer": 42}
                assert [kind for kind, _ in rig.events(run_id)].count("run_finished") == 1
                assert external.done == {f"buy-{run_id}"}
                assert_no_keys_left(client, toys.key_prefix)
            finally:
                rig.close()
