"""The test kit says what it promises, and fails where a test would otherwise prove nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from taskflow.errors import UsageError
from taskflow.pipelines import Advance, AwaitSignal, Done, Outcome, Pipeline, Snooze, Step, StepContext
from taskflow.pipelines.registry import GROUP
from taskflow.testing import Crash, Kit, crash_everywhere

CALLS: list[str] = []


def _call(ctx: StepContext) -> Outcome:
    CALLS.append(ctx.idempotency_key())
    return Advance(ctx.next_step)


SLOW = Pipeline(
    "slow", 1,
    (
        Step("call", _call),
        Step("rest", lambda ctx: Advance(ctx.next_step) if ctx.fires > 1 else Snooze(600.0)),
        Step("wait", lambda ctx: Done() if ctx.take("go") else AwaitSignal("go"), limit_s=3600.0),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_calls() -> None:
    """Nothing was called yet."""
    CALLS.clear()


@pytest.fixture
def kit() -> Iterator[Kit]:
    """An installation that knows ``slow``."""
    with Kit(SLOW) as made:
        yield made


def test_time_stands_still_until_it_is_moved(kit: Kit) -> None:
    """Also for the code that is tested."""
    began = time.time()
    run = kit.start("slow")
    assert (time.time(), kit.now, run.step) == (began, began, "rest")
    kit.advance(599)
    assert time.time() == pytest.approx(began + 599) and run.step == "rest"
    kit.advance(2)
    assert (run.step, run.awaiting) == ("wait", "go")
    assert kit.advance_until(lambda: run.finished, "it ends") == pytest.approx(3600, abs=5)


def test_after_the_block_the_time_is_the_hosts() -> None:
    """Whatever a test did to it."""
    with Kit(SLOW) as kit:
        kit.advance(60)
        virtual = time.time()
    assert time.time() - virtual > 86_400


@pytest.mark.parametrize(("place", "calls"), [("perform:call", 1), ("performed:call", 2), ("applied:call", 1)])
def test_a_crash_is_survived_by_another_worker(kit: Kit, place: str, calls: int) -> None:
    """A step whose decision was not stored is performed again, with the same key."""
    kit.crash_at(place)
    run = kit.start("slow")
    kit.advance(30)
    assert kit.crashes == [place]
    assert (run.step, len(CALLS), len(set(CALLS))) == ("rest", calls, 1)


def test_somebody_outside_acts_at_a_time(kit: Kit) -> None:
    """In the order of the times."""
    run = kit.start("slow")
    kit.after(900, lambda: run.signal("go"))
    kit.advance(899)
    assert not run.finished
    kit.advance(2)
    assert run.status == "completed"


def test_what_never_happens_is_said_by_name(kit: Kit) -> None:
    """A wait has an end, and when nothing will happen any more it ends at once."""
    run = kit.start("slow")
    with pytest.raises(AssertionError, match="pigs fly"):
        kit.advance_until(lambda: False, "pigs fly", limit_s=60)
    run.finish()
    with pytest.raises(AssertionError, match="pigs fly"):
        kit.advance_until(lambda: False, "pigs fly")


def test_a_run_that_goes_round_in_circles_is_noticed() -> None:
    """Instead of a test that never ends."""
    circle = Pipeline("circle", 1, (Step("again", lambda ctx: Advance("again")),))
    with Kit(circle) as kit, pytest.raises(AssertionError, match="no end"):
        kit.start("circle")


def test_an_effect_without_a_key_is_found_by_a_crash_everywhere() -> None:
    """The step that counts twice fails the scenario, naming the place."""

    def scenario(arm: Callable[[Kit], None]) -> None:
        CALLS.clear()
        with Kit(SLOW) as kit:
            arm(kit)
            kit.start("slow").finish()
            assert len(CALLS) == 1, f"called {len(CALLS)} times"

    with pytest.raises(AssertionError, match=r"performed:call: called 2 times"):
        crash_everywhere(scenario)


def test_a_scenario_that_proves_nothing_is_refused() -> None:
    """One that does not hand its kit over would pass whatever happens."""
    with pytest.raises(AssertionError, match="passed no place"):
        crash_everywhere(lambda arm: None)


def test_a_death_in_ones_own_code_is_the_workers(kit: Kit) -> None:
    """``Crash`` is caught by nothing but the kit."""
    assert not issubclass(Crash, Exception)


def test_a_kit_knows_what_it_was_given_and_nothing_that_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pipeline is installed by its entry point, a test has it with a fake in the place of its shop."""
    registered = EntryPoint("slow", f"{__name__}:SLOW", GROUP)
    monkeypatch.setattr("taskflow.pipelines.registry.entry_points", lambda group: [registered])
    with Kit(lambda tools: Pipeline("slow", 2, SLOW.steps)) as kit:
        assert kit.app.pipelines["slow"].version == 2
    with Kit() as kit, pytest.raises(UsageError, match="no pipeline slow"):
        kit.start("slow")


def test_the_kit_ships_without_the_tests() -> None:
    """It is importable where only the package is."""
    code = "import sys, taskflow.testing; assert not [m for m in sys.modules if m == 'tests' or m.startswith('tests.')]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
