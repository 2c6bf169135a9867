"""The thread that tells the control plane of a node: what it says of each attempt, and that nothing ends it early."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import pytest

from taskflow.agent.clock import PlaneClock
from taskflow.agent.heartbeat import Heartbeat
from taskflow.agent.wire import Answer, Key, Wire
from tests.agent.control_plane import Callback, FakeControlPlane
from tests.agent.rig import NODE_ID, NODE_TOKEN
from tests.support.waiting import wait_until


class Sender:
    """Heartbeats to a control plane, with ticks that the test moves."""

    def __init__(self, plane: FakeControlPlane) -> None:
        plane.tokens.add(NODE_TOKEN)
        self.ticks = 1000.0
        self.heard: list[tuple[Answer, float]] = []
        self.gone = 0
        self.beats: list[Exception | None] = []
        self.heartbeat = Heartbeat(
            Wire(plane.url, PlaneClock()), node_id=NODE_ID, key=lambda: Key.of_node(NODE_ID, 0, NODE_TOKEN),
            interval_s=0.02, beat=self._beat, answered=self._answered, gone=self._gone, ticks=lambda: self.ticks,
        )  # fmt: skip

    def _beat(self) -> dict[str, Any]:
        trouble = self.beats.pop(0) if self.beats else None
        if trouble is not None:
            raise trouble
        return {"ready": True}

    def _answered(self, answer: Answer, sent_at: float) -> None:
        self.heard.append((answer, sent_at))

    def _gone(self) -> None:
        self.gone += 1


def test_an_answer_is_told_with_the_time_at_which_its_heartbeat_was_sent(control_plane: FakeControlPlane) -> None:
    """However long the answer takes: the control plane counts from before it."""
    sender = Sender(control_plane)

    def slowly(_: Callback) -> None:
        sender.ticks += 40

    control_plane.fault = slowly
    sender.heartbeat.start()
    wait_until(lambda: len(sender.heard) >= 2, "two heartbeats")
    sender.heartbeat.close()
    assert [sent_at for _, sent_at in sender.heard[:2]] == [1000.0, 1040.0]
    assert all(answer.accepted for answer, _ in sender.heard[:2])


def test_a_heartbeat_that_can_not_be_made_ends_no_heartbeats(control_plane: FakeControlPlane) -> None:
    """A disk that can't be read for a moment: that attempt counts as one that reached nobody, the next one is sent."""
    sender = Sender(control_plane)
    sender.beats = [sqlite3.OperationalError("disk I/O error")]
    sender.heartbeat.start()
    wait_until(lambda: len(sender.heard) >= 2, "the next heartbeat")
    sender.heartbeat.close()
    assert [answer.status for answer, _ in sender.heard[:2]] == [0, 200]
    assert sender.gone == 0


def test_a_refusal_is_logged_with_its_reason(control_plane: FakeControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    """Who reads the agent's log is told what the control plane said."""
    sender = Sender(control_plane)
    control_plane.fault = lambda call: 403
    with caplog.at_level(logging.ERROR, logger="taskflow.agent.heartbeat"):
        sender.heartbeat.start()
        wait_until(lambda: bool(sender.heard), "a refusal")
        sender.heartbeat.close()
    assert "refuses this node: 403 asked for by the test" in caplog.text


@pytest.mark.parametrize("status", [404, 410])
def test_only_the_control_plane_itself_can_say_that_the_node_is_gone(
    control_plane: FakeControlPlane, status: int
) -> None:
    """A proxy in front of it that has a page for that, while it is being restarted, ends no session anywhere."""
    sender, own = Sender(control_plane), control_plane.refusal
    control_plane.refusal = {"message": "nothing here"}
    control_plane.fault = lambda call: status
    sender.heartbeat.start()
    wait_until(lambda: len(sender.heard) >= 2, "it goes on")
    assert sender.gone == 0
    control_plane.refusal = own
    wait_until(lambda: sender.gone, "it ends")
