"""A node that reaches nobody ends its sessions, says so later, and takes no work meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from taskflow.agent import dead_man
from taskflow.agent.dead_man import DeadMan
from taskflow.agent.problems import Problem
from taskflow.agent.store import Store
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import SESSION, SESSION_2, WS, WS_2, AgentRig
from tests.support.waiting import wait_until

LIMIT_S = 3.0


class Switch:
    """A switch over a store, with a clock that the test moves."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 1000.0
        self.boot_id = "boot-1"
        self.errors: list[dict[str, Any]] = []
        self.ended = True
        self.afterwards = 0
        self.store = Store(tmp_path / "agent.db")

    def make(self, limit_s: float | None = 60.0) -> DeadMan:
        """The switch of an agent that starts now."""
        return DeadMan(
            self.store, limit_s, end_sessions=self._end, afterwards=self._after,
            ticks=lambda: self.now, boot_id=lambda: self.boot_id,
        )  # fmt: skip

    def _end(self, error: dict[str, Any]) -> bool:
        self.errors.append(error)
        return self.ended

    def _after(self) -> None:
        self.afterwards += 1


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    """A store without any contact in it."""
    return Switch(tmp_path)


def is_cut_off(switch: DeadMan) -> bool:
    """Whether new work is refused."""
    try:
        switch.refuse_if_cut_off()
    except Problem as problem:
        assert (problem.status, problem.code) == (503, "cut_off")
        return True
    return False


def test_a_switch_trips_after_its_time_and_not_before(switch: Switch) -> None:
    """The last accepted heartbeat counts; a later one ends the state, and the next silence is a new one."""
    man = switch.make()
    man.unheard()
    switch.now += 59
    man.heard(switch.now)
    switch.now += 60
    man.look()
    assert not is_cut_off(man)
    assert switch.errors == []
    switch.now += 1
    man.look()
    assert is_cut_off(man)
    assert switch.errors[0]["code"] == "cut_off"
    assert "for 61 s" in switch.errors[0]["message"]
    man.heard(switch.now)
    assert not is_cut_off(man)
    assert switch.afterwards == 1
    switch.now += 61
    man.look()
    assert (is_cut_off(man), switch.afterwards) == (True, 2)


def test_the_wait_begins_when_the_heartbeat_was_sent(switch: Switch) -> None:
    """Not when its answer came: the control plane began to count before that. An answer that comes late moves nothing
    back."""
    man = switch.make()
    switch.now += 100
    sent_at = switch.now
    switch.now += 40
    man.heard(sent_at)
    man.heard(sent_at - 30)
    man.unheard()
    switch.now += 20
    assert not is_cut_off(man)
    switch.now += 1
    assert is_cut_off(man)


def test_an_attempt_that_never_comes_back_is_silence_too(switch: Switch) -> None:
    """Whoever was heard of once has asked: the thread that asks may hang from then on."""
    man = switch.make()
    man.heard(switch.now)
    switch.now += 61
    assert is_cut_off(man)


def test_a_restart_of_the_agent_does_not_begin_the_wait_again(switch: Switch) -> None:
    """However often it restarts the silence goes on; it asks once before it ends anything."""
    switch.make().heard(switch.now)
    for _ in range(4):
        switch.now += 20
        man = switch.make()
    man.look()
    assert not is_cut_off(man), "it has not asked yet: the control plane may be fine"
    man.unheard()
    man.look()
    assert is_cut_off(man)
    assert len(switch.errors) == 1


def test_an_agent_that_was_never_heard_is_cut_off_too(switch: Switch) -> None:
    """The wait begins with the first start, and the second start does not move it."""
    switch.make()
    switch.now += 50
    man = switch.make()
    man.unheard()
    switch.now += 11
    assert is_cut_off(man)


def test_a_machine_that_was_started_again_waits_anew(switch: Switch) -> None:
    """Its clock began at zero and nothing runs on it: the old contact says nothing, whichever is larger."""
    switch.make().heard(switch.now)
    switch.boot_id, switch.now = "boot-2", 2000.0
    man = switch.make()
    man.unheard()
    assert not is_cut_off(man)
    switch.now += 61
    assert is_cut_off(man)


def test_sessions_that_take_long_to_end_are_asked_for_until_they_have(switch: Switch) -> None:
    """What comes after is done once, and only when nothing runs any more."""
    man = switch.make()
    man.unheard()
    switch.now += 61
    switch.ended = False
    man.look()
    man.look()
    assert (len(switch.errors), switch.afterwards) == (2, 0)
    switch.ended = True
    man.look()
    man.look()
    assert (len(switch.errors), switch.afterwards) == (4, 1)


def test_without_a_limit_nothing_is_ended_and_nothing_is_kept(switch: Switch) -> None:
    """A local node's sessions outlive every silence."""
    man = switch.make(limit_s=None)
    man.heard(switch.now)
    man.unheard()
    switch.now += 10**6
    man.look()
    assert not is_cut_off(man)
    assert (switch.errors, switch.store.recall("last_contact")) == ([], None)


def test_a_contact_that_can_not_be_kept_still_counts(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not end sessions whose control plane answers."""
    man = switch.make()
    man.unheard()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(switch.store, "remember", full)
    switch.now += 61
    with pytest.raises(sqlite3.Error):
        man.heard(switch.now)
    assert not is_cut_off(man)


def test_only_root_powers_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one command, without a shell; nothing where the machine is not ours."""
    ran: list[object] = []
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: ran.append(argv))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    dead_man.power_off()
    assert ran == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    dead_man.power_off()
    assert ran == [("systemctl", "poweroff")]


def test_a_cut_off_node_ends_its_session_and_reports_it_when_the_link_is_back(
    rig: AgentRig, control_plane: FakeControlPlane
) -> None:
    """Lost, with the reason, after all of its output; meanwhile no workspace and no session is taken."""
    rig.order(dead_man_s=LIMIT_S)
    agent = rig.start()
    agent.ready()
    agent.begin("sh", "-c", "trap 'echo told; exit 3' TERM; echo begun; while :; do sleep 0.05; done")
    agent.wait_output(b"begun")
    wait_until(lambda: control_plane.received("/heartbeat"), "a heartbeat")
    control_plane.down()
    wait_until(lambda: agent.session_state()["status"] == "ended", "the session is ended")
    for answer in (agent.create(WS_2), agent.session("true", session_id=SESSION_2)):
        assert (answer.status_code, answer.json()["code"]) == (503, "cut_off")
    control_plane.up()
    outcome = agent.outcome()
    assert (outcome["outcome"], outcome["exit_code"], outcome["commit"]) == ("lost", None, None)
    assert outcome["error"]["code"] == "cut_off"
    assert outcome["error"]["phase"] is None
    assert "was not reached for" in outcome["error"]["message"]
    output = control_plane.output(SESSION)
    assert output.startswith(b"begun\n")
    assert output.endswith(b"told\n")
    wait_until(lambda: agent.create(WS_2).status_code in (200, 202), "work is taken again")
    assert agent.workspace(WS)["status"] == "ready"


def test_the_dead_man_time_goes_on_over_restarts_of_the_agent(rig: AgentRig, control_plane: FakeControlPlane) -> None:
    """An agent that is restarted again and again while cut off ends the session as one that runs through would."""
    rig.order(dead_man_s=LIMIT_S)
    agent = rig.start()
    agent.ready()
    agent.begin("sh", "-c", "echo begun; sleep 1000")
    agent.wait_output(b"begun")
    control_plane.down()
    down_at = time.monotonic()
    exit_file = agent.session_dir() / "exit.json"
    while not exit_file.exists() and time.monotonic() < down_at + 60:
        agent.kill()
        agent.start()
        begun = time.monotonic()
        # Each life is shorter than the dead-man time, and long enough for one heartbeat to fail.
        wait_until(lambda begun=begun: exit_file.exists() or time.monotonic() > begun + 1.5, "one short life")  # type: ignore[misc]
    assert exit_file.exists()
    control_plane.up()
    assert agent.outcome()["error"]["code"] == "cut_off"


def test_sessions_of_a_node_without_the_switch_outlive_a_silence(
    agent: AgentRig, control_plane: FakeControlPlane
) -> None:
    """A local node's control plane may be down for as long as it likes."""
    agent.ready()
    agent.begin("sh", "-c", "echo begun; until [ -e ../../../../go ]; do sleep 0.05; done")
    agent.wait_output(b"begun")
    control_plane.down()
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + LIMIT_S + 1, "a silence that would be too long")
    control_plane.up()
    assert agent.session_state()["status"] == "running"
    (agent.root.parent / "go").touch()
    assert agent.outcome()["outcome"] == "exited"
