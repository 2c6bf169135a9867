"""A process that begins takes over from the dead at once; from nobody else, and not again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from taskflow.engine.control import Standing
from taskflow.engine.lease import new_token, owner_is_gone
from taskflow.engine.pipeline import Step
from taskflow.engine.takeover import take_over_from_the_dead
from taskflow.ids import RunId
from tests.engine.conftest import MakeRig
from tests.support.engine import Rig, advance, toy


def dead_token() -> str:
    """The token of a process of this host that is gone."""
    made = subprocess.run(
        [sys.executable, "-c", "from taskflow.engine.lease import new_token; print(new_token())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return made.stdout.strip()


def leave_turn(rig: Rig, run_id: RunId, token: str) -> None:
    """A turn with this token begins and is never heard of again."""
    assert rig.control.fire(run_id, "", token).verdict == "go"
    rig.hints.alarms.clear()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig whose runs have one step and a cleanup."""
    return make_rig(toy(Step("work", advance)))


def test_the_run_of_a_dead_process_begins_again_at_once(rig: Rig) -> None:
    """No time passes: the lease is ended and the hint is there, and it fires."""
    run_id, other = rig.start(), rig.start()
    leave_turn(rig, run_id, dead_token())
    leave_turn(rig, other, new_token())

    assert take_over_from_the_dead(rig.control, rig.ringer) == 1

    assert [alarm.run_id for alarm in rig.hints.alarms] == [run_id]
    assert rig.fire() == "finished"
    assert rig.events(run_id)[-1] == ("run_finished", "cleanup")
    assert rig.state(other)["lease"] is not None


def test_a_hint_that_gets_lost_costs_the_grace_and_not_the_run(rig: Rig) -> None:
    """Ended, and then the process that took over dies as well: the index has the run."""
    run_id = rig.start()
    leave_turn(rig, run_id, dead_token())
    take_over_from_the_dead(rig.control, rig.ringer)
    rig.hints.alarms.clear()
    rig.shift(rig.settings.ring_grace_s + 0.01)
    assert rig.pump.tick() == 1
    assert rig.fire() == "finished"


def test_a_step_that_kills_its_workers_is_not_hurried(rig: Rig) -> None:
    """Two deaths in a row are taken over from at once; after the third the lease is waited for."""
    run_id = rig.start()
    for taken in (1, 1, 0):
        leave_turn(rig, run_id, dead_token())
        assert take_over_from_the_dead(rig.control, rig.ringer) == taken
    assert rig.state(run_id)["lease"] is not None
    rig.shift(rig.settings.lease_s + 0.2)
    assert rig.pump.tick() == 1
    assert rig.fire() == "finished"


def test_a_turn_that_was_wrongly_taken_for_dead_changes_nothing_any_more(rig: Rig) -> None:
    """Its lease is another's: its commit is fenced, and so is its renewal."""
    run_id, token = rig.start(), dead_token()
    leave_turn(rig, run_id, token)
    take_over_from_the_dead(rig.control, rig.ringer)
    leave_turn(rig, run_id, new_token())
    assert not rig.control.renew(run_id, token)
    late = rig.control.commit(run_id, token, Standing("cleanup", 1), delay_s=0.0, keep=False)
    assert late.verdict == "fenced"
    assert rig.control.abandon(run_id, token) is None
    assert rig.state(run_id)["lease"] is not None
    assert take_over_from_the_dead(rig.control, rig.ringer) == 0


def test_only_processes_of_this_host_and_container_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid says nothing about another host's process; one that is not ours to signal lives; nonsense is left alone."""
    host, space, pid, tail = dead_token().rsplit(":", 3)
    assert owner_is_gone(f"{host}:{space}:{pid}:{tail}")
    for token in (
        new_token(), f"elsewhere:{space}:{pid}:{tail}", f"{host}:1:{pid}:{tail}", f"{host}:{space}:nobody:{tail}",
        "", "x", f"{host}:{space}:1:{tail}",
    ):  # fmt: skip
        assert not owner_is_gone(token), token

    def not_ours(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    assert not owner_is_gone(f"{host}:{space}:{pid}:{tail}")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there it can be asked")
def test_a_process_that_ended_is_gone_before_its_parent_took_note() -> None:
    """A killed worker's children are orphans: whoever adopts them may take a second to reap them."""
    host, space, _, tail = new_token().split(":")
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    token = f"{host}:{space}:{child.pid}:{tail}"
    try:
        assert not owner_is_gone(token)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays unreaped
        assert owner_is_gone(token)
    finally:
        child.communicate()
