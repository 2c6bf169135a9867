"""The guarantees of everything that sells over HTTP: refusals, outages, lost answers, pages, what a state means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from libcloud.compute.types import NodeState

from taskflow.clock import ManualClock
from taskflow.errors import OutcomeUnknown, StepError
from taskflow.nodes.providers.base import (
    UNKNOWN,
    AccessRefused,
    NoCapacity,
    OrderInvalid,
    Provider,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
)
from taskflow.nodes.providers.cloud import state_of
from tests.support.fake_cloud.documented import REFUSALS, Documented
from tests.support.provider_subjects import Subject, every_cloud, every_refuser, leftover, order


def _refused(subject: Subject, kind: type[StepError], *, number: int = 9) -> StepError:
    with pytest.raises(StepError) as refused:
        subject.provider.create(order(number))
    assert type(refused.value) is kind, refused.value
    return refused.value


@every_cloud
def test_provider_conformance_each_refusal_has_a_type_of_its_own(subject: Subject) -> None:
    """Nothing is bought by any of them."""
    assert subject.cloud is not None
    faults = subject.cloud.faults
    faults.sold_out = {("size-s", "place-1")}
    _refused(subject, NoCapacity)
    faults.sold_out = set()
    faults.servers_max = 0
    _refused(subject, QuotaReached)
    faults.servers_max = None
    with pytest.raises(OrderInvalid):
        subject.provider.create(dataclasses.replace(order(), size="unheard-of"))
    assert subject.cloud.ledger.creates == 0


#: Every word of each API for how a server is -> what it is to us. Hetzner's and DigitalOcean's are those of their
#: references, Vultr's those that its library knows, and one that nobody has heard of yet.
_SAID = {
    "hetzner": {
        "running": "running", "initializing": "starting", "starting": "starting", "off": "stopped",
        "stopping": UNKNOWN, "deleting": UNKNOWN, "migrating": UNKNOWN, "rebuilding": UNKNOWN, "unknown": UNKNOWN,
        "unheard-of": UNKNOWN,
    },
    "digitalocean": {
        "new": "starting", "active": "running", "off": "stopped", "archive": "destroyed", "unheard-of": UNKNOWN,
    },
    "vultr": {
        "pending": "starting", "active": "running", "stopped": "stopped", "halted": "stopped", "rebooting": UNKNOWN,
        "resizing": UNKNOWN, "unheard-of": UNKNOWN,
    },
}  # fmt: skip


@every_cloud
def test_provider_conformance_only_a_server_that_is_off_or_gone_counts_as_that(subject: Subject) -> None:
    """Whatever else it is said to be is unknown: a move or a reboot must not pass for a sign of death."""
    assert subject.cloud is not None
    made = subject.provider.create(subject.order())
    said = {}
    for word in _SAID[subject.provider.name]:
        subject.cloud.ledger.servers[made.server_id].status = word
        found = subject.provider.get(made.server_id)
        assert found is not None
        said[word] = found.state
    assert said == _SAID[subject.provider.name]


@pytest.mark.parametrize("state", NodeState)
def test_provider_conformance_a_state_of_the_library_is_death_only_where_it_says_so(state: NodeState) -> None:
    """Of all that Libcloud has, two: it is off, and it does not come back."""
    death = {NodeState.STOPPED: "stopped", NodeState.TERMINATED: "destroyed"}
    found = state_of(state)
    assert found == death.get(state, found)
    assert state in death or found in ("starting", "running", UNKNOWN)


@pytest.mark.parametrize(
    ("subject", "refusal"), [pytest.param(one.cloud, one, id=str(one)) for one in REFUSALS], indirect=["subject"]
)
def test_provider_conformance_a_refusal_in_the_providers_own_words_has_its_type(
    subject: Subject, refusal: Documented
) -> None:
    """Their bodies through their libraries: what our own cloud says may only be what we expect."""
    assert subject.cloud is not None
    provider = subject.provider
    made = provider.create(order(1))
    method = {"create": "POST", "get": "GET", "destroy": "DELETE"}[refusal.call]
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: provider.create(order(2)), "get": lambda: provider.get(made.server_id),
        "destroy": lambda: provider.destroy(made.server_id),
    }  # fmt: skip
    subject.cloud.faults.answers = {method: (refusal.status, refusal.body, refusal.headers)}
    if refusal.kind is None:
        assert not calls[refusal.call]()  # there is none; or: it is not gone yet, look again
        return
    with pytest.raises(StepError) as refused:
        calls[refusal.call]()
    assert type(refused.value) is refusal.kind, refused.value
    assert subject.cloud.faults.answers == {}, "it was not asked"
    assert subject.cloud.ledger.creates == 1
    if isinstance(refused.value, RateLimited) and refusal.headers:
        assert refused.value.retry_after_s == {"hetzner": 60.0, "digitalocean": 12.0}[refusal.cloud]


@every_refuser
def test_provider_conformance_a_wrong_credential_is_refused_in_every_call(subject: Subject) -> None:
    """As access, and never as "there is no such server"."""
    assert subject.stranger is not None
    server_id = subject.provider.create(subject.order()).server_id
    label = subject.order().label
    calls: list[Callable[[Provider], Any]] = [
        lambda p: p.create(subject.order(2)), lambda p: p.find_by_label(label), lambda p: p.get(server_id),
        lambda p: p.destroy(server_id), lambda p: list(p.inventory()), lambda p: p.check(),
    ]  # fmt: skip
    if subject.cloud is not None:
        calls += [lambda p: list(p.leftovers()), lambda p: p.release(leftover(subject))]
    for call in calls:
        with pytest.raises(AccessRefused) as refused:
            call(subject.stranger)
        assert subject.cloud is None or "another-token" not in str(refused.value.as_dict())


@every_cloud
def test_provider_conformance_too_many_requests_say_when_to_come_back(subject: Subject) -> None:
    """By the headers where the provider sends some; one request, no attempts of its own."""
    assert subject.cloud is not None
    subject.cloud.faults.requests_per_hour = 0
    before = subject.cloud.ledger.requests
    refused = _refused(subject, RateLimited)
    assert isinstance(refused, RateLimited)
    assert subject.cloud.ledger.requests == before + 1
    if subject.provider.name != "vultr":  # which sends no header
        assert refused.retry_after_s is not None and 1.0 <= refused.retry_after_s <= 60.0


@every_cloud
def test_provider_conformance_a_lost_answer_is_an_unknown_outcome_and_the_label_finds_it(subject: Subject) -> None:
    """The library must not repeat the purchase by itself."""
    assert subject.cloud is not None
    subject.cloud.faults.lose_answers = 1
    _refused(subject, OutcomeUnknown, number=1)
    assert subject.cloud.ledger.creates == 1
    found = subject.provider.find_by_label(order().label)
    assert found is not None and found.label == order().label


@pytest.mark.parametrize("subject", ["digitalocean", "vultr"], indirect=True)
def test_provider_conformance_an_order_that_the_library_can_not_make_is_no_unknown_outcome(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent, so it is not waited for; once something was, the same stumble says nothing of what came of it."""
    assert subject.cloud is not None
    provider: Any = subject.provider
    provider.check()
    driver = provider._driver()
    buy = driver.create_node

    def stumble(**order: Any) -> None:
        raise TypeError("unsupported operand")

    def stumble_late(**order: Any) -> None:
        buy(**order)
        stumble()

    monkeypatch.setattr(driver, "create_node", stumble)
    _refused(subject, OrderInvalid)
    monkeypatch.setattr(driver, "create_node", stumble_late)
    _refused(subject, OutcomeUnknown)
    monkeypatch.setattr(driver, "create_node", stumble)
    _refused(subject, OrderInvalid)


@pytest.mark.parametrize("subject", ["hetzner"], indirect=True)
def test_provider_conformance_a_strangers_not_found_is_no_word_about_a_server(subject: Subject) -> None:
    """A proxy that answers with a page of its own: what still costs money must not count as gone."""
    assert subject.cloud is not None
    made, faults = subject.provider.create(order()), subject.cloud.faults
    faults.proxy_status = 404
    calls: list[Callable[[], Any]] = [
        lambda: subject.provider.get(made.server_id), lambda: subject.provider.destroy(made.server_id),
        lambda: subject.provider.release(leftover(subject)),
    ]  # fmt: skip
    for call in calls:
        faults.proxy_pages = 1
        with pytest.raises(ProviderUnavailable):
            call()
    found = subject.provider.get(made.server_id)
    assert found is not None and found.state != "destroyed"


@every_cloud
def test_provider_conformance_an_outage_is_transient_and_a_create_in_it_unknown(subject: Subject) -> None:
    """And a listing that fails is no empty listing."""
    assert subject.cloud is not None
    made = subject.provider.create(order())
    calls: list[Callable[[Provider], Any]] = [
        lambda p: p.find_by_label(made.label), lambda p: p.get(made.server_id), lambda p: p.destroy(made.server_id),
        lambda p: list(p.inventory()), lambda p: p.check(), lambda p: list(p.leftovers()),
        lambda p: p.release(leftover(subject)),
    ]  # fmt: skip
    for call in calls:
        for fault in ("outages", "proxy_pages"):
            setattr(subject.cloud.faults, fault, 1)
            with pytest.raises(ProviderUnavailable):
                call(subject.provider)
    for fault in ("outages", "proxy_pages"):
        setattr(subject.cloud.faults, fault, 1)
        _refused(subject, OutcomeUnknown, number=2)


@every_cloud
def test_provider_conformance_an_inventory_has_every_page_and_nothing_of_others(subject: Subject) -> None:
    """A reconciler that misses a page destroys what it does not see."""
    assert subject.cloud is not None
    made = {subject.provider.create(order(number)).server_id for number in range(60)}
    subject.cloud.ledger.create("somebody-elses", "size-s", "place-1", "", {})
    assert {one.server_id for one in subject.provider.inventory()} == made


@every_cloud
def test_provider_conformance_a_listing_that_lags_hides_a_server_only_for_a_while(subject: Subject) -> None:
    """Why an unknown outcome is looked up late: what the label does not find yet, it finds then."""
    assert subject.cloud is not None
    subject.cloud.faults.lag_s = 5.0
    subject.provider.create(order())
    assert subject.provider.find_by_label(order().label) is None
    clock = subject.cloud.ledger.clock
    assert isinstance(clock, ManualClock)
    clock.advance(5.0)
    assert subject.provider.find_by_label(order().label) is not None


@every_cloud
def test_provider_conformance_a_deletion_is_repeated_until_it_happened(subject: Subject) -> None:
    """An answer is not a deletion."""
    assert subject.cloud is not None
    made = subject.provider.create(order())
    subject.cloud.faults.slow_deletes = 2
    answers = [subject.provider.destroy(made.server_id) for _ in range(4)]
    assert answers == [False, False, False, True]
    assert subject.cloud.ledger.alive() == []


@pytest.mark.parametrize("subject", ["hetzner"], indirect=True)
def test_provider_conformance_a_name_that_is_taken_is_looked_up_and_not_bought(subject: Subject) -> None:
    """Where names are unique, even a create from the past buys nothing."""
    assert subject.cloud is not None
    subject.provider.create(order())
    _refused(subject, OutcomeUnknown, number=1)
    assert subject.cloud.ledger.bought_twice() == []


@every_cloud
def test_provider_conformance_a_slow_answer_is_not_waited_for(subject: Subject) -> None:
    """A create may have happened; a look-up is asked again."""
    assert subject.cloud is not None and subject.hasty is not None
    subject.cloud.faults.slow_s = 0.6
    with pytest.raises(OutcomeUnknown):
        subject.hasty.create(order())
    with pytest.raises(ProviderUnavailable):
        subject.hasty.find_by_label(order().label)
