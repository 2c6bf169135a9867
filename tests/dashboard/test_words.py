"""Values as pages show them: as people read them, and without a word lost."""

from __future__ import annotations

from taskflow.words import command_line, compact
from web.dashboard.words import lines, needs, tally


def test_what_an_event_says_is_read_without_knowing_json() -> None:
    """Seconds are times, what is empty is left out, letters are letters; flags and names that only look like times stay."""
    said = compact(
        {
            "from": "a",
            "duration_s": 0.128616,
            "error": {"message": "gr\u00fcn"},
            "none": None,
            "is_s": True,
            "at_s": "x",
        }
    )
    assert said == 'from: a, duration: 0.1 s, error: {"message": "gr\u00fcn"}, is_s: true, at_s: x'


def test_what_somebody_gave_is_shown_as_it_is() -> None:
    """Nothing of it is left out or renamed."""
    assert lines({"wait_s": 90, "note": "", "items": []}) == "wait_s: 90\nnote: \nitems: []" and lines({}) == ""


def test_what_a_sweep_counted_is_read_without_zeros() -> None:
    """Of nothing it says that; what is no count is said as an event says it."""
    assert tally({"looked_at": 2, "rung": 0, "says": "x"}) == "2 looked at, says: x"
    assert tally({"looked_at": 0}) == "nothing to do" and tally({}) == ""


def test_what_was_asked_of_a_node_is_said_in_words() -> None:
    """And nothing of it is left out."""
    asked = {
        "vcpus": 2.0,
        "memory_mb": 512,
        "provider": "hetzner",
        "location": "fsn1",
        "location_policy": "prefer",
        "x": 1,
    }
    assert needs(asked) == "provider hetzner, at fsn1, 2 vCPU, 512 MB of memory, or elsewhere, x: 1"
    assert needs({"vcpus": 0.5, "location_policy": "require"}) == "0.5 vCPU"


def test_a_command_for_a_shell_is_shown_as_it_was_typed() -> None:
    """Any other one is quoted so that it can be typed."""
    assert command_line(["sh", "-c", "echo 'a b' | wc"]) == "echo 'a b' | wc"
    assert command_line(["echo", "a b"]) == "echo 'a b'" and command_line(["sh", "-c"]) == "sh -c"
    assert command_line(["sh", "-c", " "]) == "sh -c ' '" and command_line(None) == ""
