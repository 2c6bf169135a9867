"""Choosing a node: each rule, and each reason for a rejection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from taskflow.nodes.catalogue import Offer
from taskflow.nodes.selector import Candidate, Choice, Limits, Wish, select

OFFER = Offer("local", "", "", vcpus=8, memory_mb=16_000, slots=4)
LIMITS = Limits(heartbeat_stale_s=60.0, load_max=2.0, memory_max=75.0, disk_max=85.0)


def node(name: str, status: str = "active", live: int = 0, *, age_s: float | None = 1.0, **more: Any) -> Candidate:
    """A node with four slots."""
    return Candidate(name, status, 4, live, age_s, **more)


def choose(*nodes: Candidate, wish: Wish | None = None, room: bool = True) -> Choice:
    """The choice; ``room``: one more node may be bought."""
    return select(wish or Wish(), nodes, offers=[OFFER] if room else [], limits=LIMITS)


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


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (None, "there is no node x"),
        (node("x", "error"), "it is error"),
        (node("x", live=4), "4 of 4 slots are taken"),
        (node("x", age_s=61.0), "its agent has not reported lately"),
        (node("x", unreachable=True), "its agent has not reported lately"),
        (node("x", provider="cloud", load=2.1), "its load is 2.1 for each core"),
        (node("x", closed="2 of 2 workspaces of yours are on it"), "2 of 2 workspaces of yours are on it"),
        (node("x", "creating", age_s=None, expected=4), "4 of 4 slots are taken, 4 of them by tasks on their way"),
    ],
)
@pytest.mark.parametrize(
    ("others", "room", "action", "said"),
    [
        ([node("ok", "warm")], True, "use", "instead of x: a warm node"),
        ([node("n", "creating", age_s=None)], True, "await_node", "instead of x: a node is coming already"),
        ([], True, "provision", "instead of x: no node with room"),
        ([node("full", live=4)], False, "wait", "no node has room, and no further one is allowed"),
    ],
)
def test_a_named_node_that_can_not_be_used_now_is_replaced_where_that_is_allowed(
    named: Candidate | None, why: str, others: list[Candidate], room: bool, action: str, said: str
) -> None:
    """By the usual order; the choice says instead of which node, and why not that one, once."""
    choice = choose(*others, *([named] if named else []), wish=Wish("x", allow_fallback=True), room=room)
    assert (choice.action, choice.reason) == (action, said)
    stored = choice.as_dict()
    assert stored["instead_of"] == "x"
    assert stored["rejected"][0] == {"node_id": "x", "reason": why}
    assert [one.get("node_id") for one in stored["rejected"]].count("x") == 1


@pytest.mark.parametrize("named", [node("x", live=3), node("x", "creating", age_s=None)])
def test_a_named_node_that_will_do_is_taken_although_another_one_may_be(named: Candidate) -> None:
    """A better one beside it changes nothing, and nothing says that it is a stand-in."""
    choice = choose(named, node("better", "warm"), wish=Wish("x", allow_fallback=True))
    assert choice.node_id == "x" and "instead_of" not in choice.as_dict()


def test_what_only_the_named_node_could_ever_be_is_waited_for_there() -> None:
    """It is full now and the catalogue has nothing like it: that is no reason to fail the task."""
    large = node("x", live=4, vcpus=64)
    asked = Wish("x", allow_fallback=True, vcpus=32)
    choice = select(asked, [large], offers=[OFFER], catalogue=[OFFER], limits=LIMITS)
    assert choice.action == "wait" and choice.rejected[0]["node_id"] == "x"


@pytest.mark.parametrize(
    ("rejected", "wish", "reason"),
    [
        (node("x", live=3, expected=1), Wish(), "4 of 4 slots are taken, 1 of them by tasks on their way"),
        (node("x", unreachable=True), Wish(), "its agent has not reported lately"),
        (node("x", agent_fits=False), Wish(), "its agent is of another release, and takes no new work"),
        (node("x", provider="cloud", load=2.1), Wish(), "its load is 2.1 for each core"),
        (node("x", provider="cloud", memory_percent=75.6), Wish(), "76 % of its memory is in use"),
        (node("x", provider="cloud", disk_percent=99.9), Wish(), "100 % of its disk is in use"),
        (node("x"), Wish(provider="cloud"), "it is of provider local, cloud was asked for"),
        (node("x", location="fsn1"), Wish(location="nbg1"), "it is at fsn1, nbg1 was asked for"),
        (node("x"), Wish(location="nbg1"), "it is at no place, nbg1 was asked for"),
        (node("x"), Wish(vcpus=2), "it has an unknown number of vcpus, 2 are needed"),
        (node("x", vcpus=1), Wish(vcpus=2), "it has 1 vcpus, 2 are needed"),
        (node("x", vcpus=4, reserved_vcpus=3), Wish(vcpus=2), "it has left 1 vcpus, 2 are needed"),
        (node("x", memory_mb=512), Wish(memory_mb=1024), "it has 512 MB of memory, 1024 are needed"),
        (
            node("x", memory_mb=2048, reserved_memory_mb=1536), Wish(memory_mb=1024),
            "it has left 512 MB of memory, 1024 are needed",
        ),
    ],
)  # fmt: skip
def test_a_node_that_does_not_do_is_rejected_with_what_is_missing(rejected: Candidate, wish: Wish, reason: str) -> None:
    """Each filter alone."""
    choice = choose(rejected, wish=wish, room=False)
    assert (choice.action, choice.as_dict()["rejected"]) == ("wait", [{"node_id": "x", "reason": reason}])


def test_the_local_node_is_not_refused_for_what_else_its_machine_does() -> None:
    """There is no other one."""
    assert choose(node("x", load=50.0, memory_percent=99.0, disk_percent=99.0)).node_id == "x"


def test_a_server_at_its_limits_or_that_does_not_say_gets_work() -> None:
    """Only more than the limit is too much; what an agent can't find out is no reason."""
    at_limit = node("x", provider="cloud", load=2.0, memory_percent=75.0, disk_percent=85.0)
    assert choose(at_limit).node_id == "x"
    assert choose(node("x", provider="cloud")).node_id == "x"


def test_a_full_disk_passes_a_warm_server_over_for_another_one() -> None:
    """Being warm is worth nothing where nothing can be written."""
    full = node("full", "warm", provider="cloud", disk_percent=97.0)
    assert choose(full, node("ok", live=2)).node_id == "ok"


def test_a_node_that_is_coming_is_not_promised_more_often_than_it_has_slots() -> None:
    """The fifth gets one of its own."""
    coming = node("n", "creating", age_s=None, expected=4)
    assert choose(coming).action == "provision"
    assert choose(coming, room=False).action == "wait"


def test_the_smallest_node_that_will_do_is_taken() -> None:
    """A large one is kept for who needs it."""
    assert choose(node("large", vcpus=16), node("small", vcpus=4), wish=Wish(vcpus=2)).node_id == "small"


NEAR = Wish(location="fsn1", location_policy="prefer")


@pytest.mark.parametrize(
    ("nodes", "action", "chosen", "away"),
    [
        ([node("b", "warm", location="nbg1"), node("f", "warm", location="fsn1")], "use", "f", False),
        ([node("b", live=3, location="nbg1"), node("f", live=1, location="fsn1")], "use", "f", False),
        ([node("b", "warm", location="nbg1"), node("f", live=1, location="fsn1")], "use", "b", True),
        ([node("b", live=1, location="nbg1"), node("f", "creating", location="fsn1")], "use", "b", True),
        ([node("b", "creating", location="nbg1"), node("f", "creating", location="fsn1")], "await_node", "f", False),
        ([node("b", "creating", location="nbg1")], "await_node", "b", True),
        ([node("l", live=1)], "use", "l", True),
    ],
)
def test_a_place_that_is_preferred_comes_first_of_its_kind(
    nodes: list[Candidate], action: str, chosen: str, away: bool
) -> None:
    """Among the warm, the running, and those that come; who gets another place is told so."""
    choice = choose(*nodes, wish=NEAR)
    assert (choice.action, choice.node_id) == (action, chosen)
    assert choice.reason.endswith(", fsn1 was preferred") == away


def test_an_offer_at_the_preferred_place_is_bought_before_the_others() -> None:
    """The catalogue's order holds among those that are there, and among the others; what is too small stays so."""
    offers = [Offer("cloud", size, place, 4, 8000, 2) for size in ("s", "m") for place in ("nbg1", "fsn1")]
    small = Offer("cloud", "xs", "fsn1", 1, 1000, 1)
    choice = select(replace(NEAR, vcpus=2), [], offers=[small, *offers], limits=LIMITS)
    assert (choice.offer, choice.reason) == (offers[1], "no node with room")
    elsewhere = select(NEAR, [], offers=[offers[2], offers[0]], catalogue=offers, limits=LIMITS)
    assert elsewhere.offer == offers[2]
    assert elsewhere.reason == "no node with room; it is at nbg1, fsn1 was preferred"


def test_what_is_stored_of_a_wish_makes_it_again() -> None:
    """Also of one that an older release stored, which knew no policy, and for one that does not know it yet."""
    for wish in (NEAR, Wish(location="fsn1"), Wish(provider="cloud", size="s")):
        assert Wish(**wish.as_dict()) == wish
    assert "location_policy" not in Wish(location="fsn1").as_dict()


def test_the_first_offer_that_fits_is_bought_and_the_others_say_why_not() -> None:
    """In the order of the catalogue."""
    small, elsewhere = Offer("cloud", "s", "fsn1", 2, 4000, 2), Offer("cloud", "l", "nbg1", 8, 16_000, 4)
    large = Offer("cloud", "l", "fsn1", 8, 16_000, 4)
    choice = select(
        Wish(location="fsn1", vcpus=4), [], offers=[small, elsewhere, large], closed={"dear": "it rests"}, limits=LIMITS
    )
    assert (choice.action, choice.offer) == ("provision", large)
    assert choice.as_dict()["offer"] == {"provider": "cloud", "size": "l", "location": "fsn1"}
    assert [(one["offer"], one["reason"]) for one in choice.rejected] == [
        ("s@fsn1", "it has 2 vcpus, 4 are needed"), ("l@nbg1", "it is at nbg1, fsn1 was asked for"),
    ]  # fmt: skip


def test_what_will_never_do_says_what_decides_it() -> None:
    """Each offer and node with its reason, the first few of them: not that a node which could do never is draining too."""
    offers = [Offer("local", "", "", 4.0, 8000, 3), *(Offer("cloud", f"s{n}", "fsn1", n, 8000, 3) for n in range(1, 6))]
    choice = select(
        Wish(vcpus=900), [node("n1", vcpus=4.0), node("n2", "error")], offers=[], catalogue=offers,
        limits=Limits(60.0, 2.0),
    )  # fmt: skip
    assert (choice.action, choice.reason) == (
        "impossible",
        "no node and no offer is what was asked for: local: it has 4 vcpus, 900 are needed; "
        "cloud s1@fsn1: it has 1 vcpus, 900 are needed; cloud s2@fsn1: it has 2 vcpus, 900 are needed; "
        "cloud s3@fsn1: it has 3 vcpus, 900 are needed; and 4 more",
    )  # fmt: skip


def test_who_waits_is_told_why_each_provider_sells_nothing() -> None:
    """A full account is no mystery."""
    choice = select(Wish(), [], offers=[], closed={"cloud": "nothing is bought there until then"}, limits=LIMITS)
    assert choice.as_dict()["rejected"] == [{"provider": "cloud", "reason": "nothing is bought there until then"}]


def test_a_wish_that_a_later_release_stored_is_read_for_what_is_known_of_it() -> None:
    """Both releases run side by side in a deploy, and a rollback leaves it behind."""
    assert Wish.stored({"vcpus": 2.0, "colour": "green"}) == Wish(vcpus=2.0)
