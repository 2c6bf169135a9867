"""The end of an agent's own log, as it answers it to who has its token."""

from __future__ import annotations

import logging

import pytest

from taskflow import protocol
from taskflow.agent.tail import Tail
from tests.agent.rig import AGENT_TOKEN, NODE_TOKEN, AgentRig


def _record(text: object) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, "file", 1, text, None, None)


def test_the_last_lines_are_kept_and_no_more_than_said() -> None:
    """Whole lines, but of one that is longer than all of it: its last words."""
    tail = Tail(20)
    assert tail.text() == ""
    for number in range(100):
        tail.handle(_record(f"line {number}"))
    assert tail.text() == "line 98\nline 99\n"
    tail.handle(_record("a-word-that-is-cut and the very end"))
    assert tail.text() == "and the very end\n"


def test_a_line_that_can_not_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every other handler."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    tail = Tail(1000)
    record = _record("%d")
    record.args = ("no number",)
    tail.handle(record)
    tail.handle(_record("lone \ud800 and \u20ac"))
    assert tail.text() == "lone ? and \u20ac\n"


def test_an_agent_tells_the_end_of_its_log_and_no_secret_of_its_own(agent: AgentRig) -> None:
    """What it logged since its start, as it stands in its file too."""
    agent.ready()
    answer = agent.call("GET", protocol.AGENT_LOG)
    assert answer.status_code == 200
    log = protocol.load(protocol.AgentLogSchema, answer.json())["log"]
    assert "INFO taskflow.agent.node node " in log
    assert len(log.encode()) <= protocol.AGENT_LOG_BYTES_MAX
    assert AGENT_TOKEN not in log and NODE_TOKEN not in log
