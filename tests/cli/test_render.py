"""What is written: durations, tables, results, and the plain lines of a progress."""

from __future__ import annotations

from typing import Any

import pytest

from taskflow.cli import render
from taskflow.cli.render import Progress
from taskflow.words import duration, number
from tests.cli.fake_server import make_task


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0 ms"), (0.0204, "20 ms"), (1.24, "1.2 s"), (59.9, "59.9 s"), (61, "1 min 1 s"),
     (3600, "1 h"), (60, "1 min"), (3 * 86_400 + 7_200, "3 days 2 h"), (7380, "2 h 3 min")],
)  # fmt: skip
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    """Two digits that matter, in the unit that fits."""
    assert duration(seconds) == text


def test_tables_are_aligned() -> None:
    """Columns as wide as their widest cell, nothing after the last one, None as a dash."""
    assert render.table(("A", "B"), [("long", None), ("x", "y")]) == "A     B\nlong  -\nx     y"


def test_a_pipe_shows_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing provisional, no control codes."""
    progress = Progress()
    progress.provisional("going")
    progress.line("done")
    assert capsys.readouterr().out == "done\n"


def test_the_result_says_what_there_is_to_take() -> None:
    """Pushed, not pushed, or nothing changed; a long list of files is cut and counted."""
    result = {"output_branch": "b", "commit": "c", "pushed": False, "changed_files": [f"f{n}" for n in range(25)]}
    kept = render.result_block(make_task(status="completed", result=result))
    assert "b (not pushed)" in kept
    assert "f19 and 5 more" in kept
    assert "merge" not in kept
    nothing = render.result_block(make_task(status="completed"))
    assert "the command changed nothing" in nothing
    assert "changed nothing" not in render.result_block(make_task(status="failed"))


def test_a_task_that_ran_again_took_as_long_as_its_last_run() -> None:
    """From when that run was asked for, not from the task's making; a server that does not say it is believed as before."""
    ended = {"status": "failed", "completed_at": "2026-01-01T01:00:00.500Z", "run_number": 2}
    assert render.result_block(make_task(**ended, run_created_at="2026-01-01T01:00:00.000Z")).endswith("run 2   0.5 s")
    assert render.result_block(make_task(**ended)).endswith("run 2   1 h")


def test_what_happens_then_is_said_once() -> None:
    """The word stands before the sentence of the API; a server of an older release begins the sentence with it."""
    for said in ("the step fails", "then the step fails"):
        text = render.why_text({"summary": "it waits", "then": said, "step": "running"}, "task-1")
        assert text.splitlines()[-1].split() == ["then", "the", "step", "fails"]


def test_why_says_which_node_was_chosen_and_what_spoke_against_the_others() -> None:
    """A node that is there, one that is bought, or none yet; and a line for each candidate that was refused."""
    placement = {
        "action": "use", "node_id": "node-2", "reason": "a warm node",
        "rejected": [
            {"node_id": "node-1", "reason": "it is draining"},
            {"provider": "hetzner", "offer": "cx22@fsn1", "reason": "it has 2 vcpus"},
            {"provider": "vultr", "reason": "2 of 2\x1b[2J nodes exist"},
        ],
    }  # fmt: skip
    lines = render.why_text({"summary": "it runs", "placement": placement}, "task-1").splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "chosen node-2: a warm node",
        "not node-1: it is draining",
        "not hetzner cx22@fsn1: it has 2 vcpus",
        "not vultr: 2 of 2 nodes exist",
    ]
    offer = {"provider": "hetzner", "size": "cx22", "location": "fsn1"}
    none: dict[str, Any] = {"node_id": None, "rejected": []}
    bought = {**none, "action": "provision", "reason": "no node with room", "offer": offer}
    assert "a new node of hetzner cx22 fsn1: no node with room" in render.why_text({"placement": bought}, "task-1")
    waits = {**none, "action": "wait", "reason": "no node has room"}
    assert "none yet: no node has room" in render.why_text({"placement": waits}, "task-1")
    named = {**waits, "node_id": "node-1", "reason": "the node that was asked for: it is full"}
    assert "none yet: the node that was asked for" in render.why_text({"placement": named}, "task-1")


@pytest.mark.parametrize(("at", "said"), [(None, "none yet"), ("2026-11-26T12:00:00.000Z", "2026-11-26T12:00:00.000Z")])
def test_a_running_task_says_when_its_command_last_wrote_something(at: str | None, said: str) -> None:
    """In `why` and in `show`; of what does not run, and by a server that does not know it, nothing is said."""
    why = render.why_text({"summary": "it runs", "step": "running", "last_output_at": at}, "task-1")
    shown = render.task_details(make_task(status="in_progress", last_output_at=at))
    for text in (why, shown):
        assert [line.strip().split("  ")[-1].strip() for line in text.splitlines() if "last output" in line] == [said]
    assert "last output" not in render.why_text(
        {"summary": "it waits", "step": "cleanup", "last_output_at": at}, "task-1"
    )
    assert "last output" not in render.task_details(make_task(status="completed", last_output_at=at))


def test_a_warning_can_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It may repeat what a server said."""
    Progress().warn("it\x1b[2J is\x07 so\nand so")
    assert capsys.readouterr().err == "warning: it is so\nand so\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(2592000.0, "2592000"), (1234567.5, "1234567.5"), (0.25, "0.25"), (0.0113, "0.0113"), (0.0, "0")],
)
def test_a_number_is_shown_as_it_is_typed(value: float, text: str) -> None:
    """With an exponent a limit of 1,234,567.5 would be shown as another one."""
    assert number(value) == text
