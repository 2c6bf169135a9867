"""Choosing a node: each rule, and each reason for a rejection."""

from __future__ import annotations

import pytest

from taskflow.nodes.liveness import Liveness, node_liveness
from taskflow.nodes.selector import Candidate, Choice, Wish, select


def node(
    name: str, status: str = "active", live: int = 0, *, age_s: float | None = 1.0, load: float | None = None
) -> Candidate:
    """A node with four slots."""
    return Candidate(name, status, 4, live, age_s, load)


def choose(*nodes: Candidate, wish: Wish | None = None, room: bool = True) -> Choice:
    """The choice; ``room``: one more node may be made."""
    return select(wish or Wish(), nodes, may_provision=room, heartbeat_stale_s=60.0)


@pytest.mark.parametrize(
    ("nodes", "room", "action", "chosen"),
    [
        ([node("a", live=1), node("w", "warm")], True, "use", "w"),
        ([node("a", live=1), node("b", live=3), node("c", live=2)], True, "use", "b"),
        ([node("a", live=1, load=2.0), node("b", live=1, load=0.5)], True, "use", "b"),
        ([node("a", live=4), node("n", "requested", age_s=None)], True, "await_node", "n"),
        ([node("n", "creating", age_s=None)], True, "await_node", "n"),
        ([node("n", "awaiting_agent", age_s=None)], False, "await_node", "n"),
        ([node("a", live=4)], True, "provision", None),
        ([], True, "provision", None),
        ([node("a", live=4)], False, "wait", None),
        ([node("d", "draining")], False, "wait", None),
        ([node("w", "warm", age_s=61.0)], False, "wait", None),
    ],
)
def test_the_rules_in_their_order(nodes: list[Candidate], room: bool, action: str, chosen: str | None) -> None:
    """Warm, then the fullest with room, then one that is coming, then a new one, then waiting."""
    choice = choose(*nodes, room=room)
    assert (choice.action, choice.node_id) == (action, chosen)


@pytest.mark.parametrize(
    ("rejected", "reason"),
    [
        (node("x", "draining"), "it is draining"),
        (node("x", "error"), "it is error"),
        (node("x", live=4), "4 of 4 slots are taken"),
        (node("x", age_s=61.0), "its agent has not reported lately"),
        (node("x", "warm", age_s=None), "its agent has not reported lately"),
    ],
)
def test_every_rejected_candidate_is_listed_with_its_reason(rejected: Candidate, reason: str) -> None:
    """The reasons are stored with the task."""
    assert choose(rejected, node("ok")).as_dict()["rejected"] == [{"node_id": "x", "reason": reason}]


@pytest.mark.parametrize(
    ("named", "action"),
    [
        (node("x", live=3), "use"),
        (node("x", "warm"), "use"),
        (node("x", live=4), "wait"),
        (node("x", age_s=61.0), "wait"),
        (node("x", "requested", age_s=None), "await_node"),
        (node("x", "draining"), "impossible"),
        (node("x", "error"), "impossible"),
        (None, "impossible"),
    ],
)
def test_a_named_node_is_that_one_or_none(named: Candidate | None, action: str) -> None:
    """A better one beside it changes nothing."""
    choice = choose(*([named] if named else []), node("better", "warm"), wish=Wish("x"))
    assert (choice.action, choice.node_id) == (action, "x")


def test_a_named_node_that_is_impossible_is_replaced_only_when_allowed() -> None:
    """The fallback is the usual order."""
    assert choose(node("ok"), wish=Wish("x", allow_fallback=True)).node_id == "ok"


ALIVE, UNSURE, DEAD = Liveness.LIVE, Liveness.INCONCLUSIVE, Liveness.DEAD


@pytest.mark.parametrize(
    ("age_s", "answers", "server", "verdict"),
    [
        (1.0, None, None, ALIVE),
        (60.0, False, None, ALIVE),
        (61.0, True, None, ALIVE),
        (61.0, False, "running", UNSURE),
        (61.0, False, "starting", UNSURE),
        (61.0, None, "stopped", UNSURE),
        (None, None, None, UNSURE),
        (61.0, False, "stopped", DEAD),
        (61.0, False, "destroyed", DEAD),
        (61.0, False, None, DEAD),
        (600.0, False, "running", UNSURE),
        (601.0, False, "running", DEAD),
        (None, False, "running", UNSURE),
    ],
)
def test_a_verdict_of_death_needs_two_signs(
    age_s: float | None, answers: bool | None, server: str | None, verdict: Liveness
) -> None:
    """Heartbeat, agent and provider; what was not asked is no sign."""
    assert node_liveness(heartbeat_age_s=age_s, stale_s=60.0, agent_answers=answers, server_state=server) is verdict
