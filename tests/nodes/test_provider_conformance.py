"""One set of guarantees for every provider. ``-k provider_conformance -v`` lists them.

``local`` runs a real node host, ``ssh`` asks real SSH servers (more of it in test_ssh_*.py). The clouds are driven
by the real client libraries over real HTTP; what answers is a cloud on this machine that keeps books, so that what was
bought is counted there and not in what was said.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from libcloud.compute.types import NodeState

from taskflow.agent.ending import Ending
from taskflow.clock import ManualClock
from taskflow.errors import OutcomeUnknown, StepError
from taskflow.file_lock import FileLock
from taskflow.nodes.providers.base import (
    UNKNOWN,
    AccessRefused,
    Leftover,
    NoCapacity,
    NodeOrder,
    OrderInvalid,
    Provider,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
)
from taskflow.nodes.providers.cloud import LibcloudProvider, state_of
from taskflow.nodes.providers.hetzner import INSTALLATION_LABEL, HetznerProvider
from taskflow.nodes.providers.local import NODE_HOST_LOCK, LocalProvider
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.stack.nodehost import NodeHost
from tests.support.fake_cloud import FakeCloud
from tests.support.fake_cloud.documented import REFUSALS, Documented
from tests.support.orders import agent_order
from tests.support.ssh_lab import lab
from tests.support.sshd import make_key
from tests.support.waiting import wait_until

CLOUDS = ("hetzner", "digitalocean", "vultr")
PROVIDERS = ("local", "ssh", *CLOUDS)
PREFIX = "tf-installation-"


@dataclass
class Subject:
    """A provider, and who keeps its books. ``cloud`` is None for a provider without one."""

    provider: Provider
    cloud: FakeCloud | None
    #: The same provider with a credential that is not accepted.
    stranger: Provider | None = None
    #: The same provider with little patience.
    hasty: Provider | None = None
    #: What it sells, where nothing is sold twice; ``order`` says the rest.
    sizes: tuple[str, ...] = ()

    def order(self, number: int = 1) -> NodeOrder:
        """What is bought."""
        return dataclasses.replace(order(number), size=self.sizes[number - 1]) if self.sizes else order(number)


def order(number: int = 1) -> NodeOrder:
    """What is bought."""
    return NodeOrder(
        f"node-{number}", f"{PREFIX}{number}", agent_order(f"node-{number}", slots=4),
        size="size-s", location="place-1", user_data="#cloud-config\n",
    )  # fmt: skip


def _hetzner(cloud: FakeCloud, token: str, clock: ManualClock, timeout_s: float) -> Provider:
    return HetznerProvider(
        "hetzner", token=token, image="debian-12", installation=lambda: "i-1", clock=clock, timeout_s=timeout_s,
        api_url=f"http://127.0.0.1:{cloud.port}/v1",
    )  # fmt: skip


def _libcloud(driver: str) -> Callable[[FakeCloud, str, ManualClock, float], Provider]:
    def make(cloud: FakeCloud, token: str, clock: ManualClock, timeout_s: float) -> Provider:
        options = {"secure": False, "host": "127.0.0.1", "port": cloud.port}
        return LibcloudProvider(
            driver, driver=driver, key=token, image="1", prefix=lambda: PREFIX, timeout_s=timeout_s, options=options
        )

    return make


_MAKERS = {"hetzner": _hetzner, "digitalocean": _libcloud("digitalocean"), "vultr": _libcloud("vultr")}


@contextmanager
def _local(settings: Settings) -> Iterator[Subject]:
    ended = Ending()
    data_dir = DataDir(settings)
    lifeline = data_dir.root / "lifeline"
    lifeline.touch()
    lock = FileLock(data_dir.root / NODE_HOST_LOCK)
    assert lock.acquire(wait_s=1.0)
    sleeper = "import fcntl, signal, sys; f = open(sys.argv[1] + '/agent.lock', 'w'); fcntl.flock(f, 2); signal.pause()"
    host = NodeHost(settings, lifeline, argv=lambda root, _url, _line: [sys.executable, "-c", sleeper, str(root)])
    thread = threading.Thread(target=host.run, args=(ended,))
    thread.start()
    provider = LocalProvider(data_dir.root)
    try:
        yield Subject(provider, None)
    finally:
        for server in list(provider.inventory()):
            wait_until(partial(provider.destroy, server.server_id), "gone")
        ended.set()
        thread.join()
        lock.release()


@contextmanager
def _ssh(root: Path) -> Iterator[Subject]:
    with lab(root / "lab", 3) as made:
        strange = make_key(root / "another-token")
        yield Subject(
            made.provider(), None, made.provider(key_file=str(strange)), made.provider(timeout_s=0.05),
            tuple(server.name for server in made.servers),
        )  # fmt: skip


@pytest.fixture
def subject(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Subject]:
    """The provider that the test is about, with its world around it."""
    with ExitStack() as stack:
        if request.param == "ssh":
            yield stack.enter_context(_ssh(tmp_path))
            return
        if request.param == "local":
            yield stack.enter_context(_local(settings))
            return
        clock = ManualClock()
        cloud = stack.enter_context(FakeCloud(clock, unique_names=request.param == "hetzner"))
        make = _MAKERS[request.param]
        token = cloud.ledger.token
        yield Subject(
            make(cloud, token, clock, 5.0),
            cloud,
            make(cloud, "another-token", clock, 5.0),
            make(cloud, token, clock, 0.2),
        )


def destroy(provider: Provider, server: str) -> None:
    """Until it is gone."""
    wait_until(lambda: provider.destroy(server), f"{server} is gone")


every_provider = pytest.mark.parametrize("subject", PROVIDERS, indirect=True)
every_refuser = pytest.mark.parametrize("subject", ("ssh", *CLOUDS), indirect=True)
every_cloud = pytest.mark.parametrize("subject", CLOUDS, indirect=True)


# --- what holds at every provider


@every_provider
def test_provider_conformance_a_created_server_is_found_by_its_label_and_by_its_id(subject: Subject) -> None:
    """And is in the inventory, once."""
    made = subject.provider.create(subject.order())
    assert made.label == subject.order().label
    assert made.state in ("starting", "running")
    by_label, by_id = subject.provider.find_by_label(subject.order().label), subject.provider.get(made.server_id)
    assert by_label is not None and by_id is not None
    assert by_label.server_id == by_id.server_id == made.server_id
    assert [one.server_id for one in subject.provider.inventory()] == [made.server_id]


@every_provider
def test_provider_conformance_what_was_never_made_is_unknown(subject: Subject) -> None:
    """None, not an error."""
    assert subject.provider.find_by_label("tf-installation-none") is None
    assert subject.provider.get("424242") is None
    assert list(subject.provider.inventory()) == []


@every_provider
def test_provider_conformance_a_label_that_is_looked_up_first_is_bought_once(subject: Subject) -> None:
    """The rule of the caller, and what it relies on: the look-up after a create finds its server."""
    for _ in range(3):
        server = subject.provider.find_by_label(subject.order().label) or subject.provider.create(subject.order())
    assert [one.server_id for one in subject.provider.inventory()] == [server.server_id]
    assert subject.cloud is None or subject.cloud.ledger.creates == 1


@every_provider
def test_provider_conformance_destroyed_means_gone(subject: Subject) -> None:
    """By id or by label, again and again; only then is it True, and its neighbour stays."""
    made, other = subject.provider.create(subject.order(1)), subject.provider.create(subject.order(2))
    third = subject.provider.create(subject.order(3))
    destroy(subject.provider, made.server_id)
    destroy(subject.provider, third.label)
    assert subject.provider.destroy(made.server_id)
    gone = subject.provider.get(made.server_id)
    assert gone is None or gone.state == "destroyed"
    assert [one.server_id for one in subject.provider.inventory()] == [other.server_id]
    if subject.cloud is not None:
        assert [one.server_id for one in subject.cloud.ledger.alive()] == [other.server_id]


@every_provider
def test_provider_conformance_to_destroy_what_never_was_is_done(subject: Subject) -> None:
    """A node whose server was never bought is destroyed too."""
    assert subject.provider.destroy("tf-installation-never")


@every_provider
def test_provider_conformance_a_server_leaves_nothing_else_behind(subject: Subject) -> None:
    """Nothing besides the server is bought or marked, so there is nothing to be forgotten."""
    made = subject.provider.create(subject.order())
    assert list(subject.provider.leftovers()) == []
    destroy(subject.provider, made.server_id)
    assert list(subject.provider.leftovers()) == []
    assert subject.cloud is None or subject.cloud.ledger.standing() == []


@every_provider
def test_provider_conformance_a_check_buys_nothing(subject: Subject) -> None:
    """It says what it found."""
    assert subject.provider.check()
    assert list(subject.provider.inventory()) == []


# --- what holds at everything that sells over HTTP


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


# --- what else is paid for

#: Provider -> what its API calls its addresses and volumes, where they can be told for ours.
_COLLECTIONS = {
    "hetzner": {"primary_ips": "address", "floating_ips": "address", "volumes": "volume"},
    "digitalocean": {"volumes": "volume"},
    "vultr": {"blocks": "volume", "reserved-ips": "address"},
}


def leftover(subject: Subject, number: int = 1) -> Leftover:
    """One as it was listed once, of whatever kind comes first."""
    collection, kind = next(iter(_COLLECTIONS[subject.provider.name].items()))
    mark = "i-1" if subject.provider.name == "hetzner" else PREFIX
    return Leftover(kind, f"{collection}/{number}", f"{PREFIX}disk", mark)


def _labels(subject: Subject) -> dict[str, str]:
    return {INSTALLATION_LABEL: "i-1"} if subject.provider.name == "hetzner" else {}


@every_cloud
def test_provider_conformance_addresses_and_volumes_of_ours_are_listed_whole(subject: Subject) -> None:
    """Of every kind and from every page, with what has them; nothing that lacks the mark."""
    assert subject.cloud is not None
    expected, ledger = set(), subject.cloud.ledger
    for collection, kind in _COLLECTIONS[subject.provider.name].items():
        for number in range(12):
            has_it = "1001" if number == 3 else None
            made = ledger.add(collection, f"{PREFIX}{collection}-{number}", _labels(subject), attached_to=has_it)
            expected.add((kind, f"{collection}/{made.id}", has_it))
        ledger.add(collection, "somebody-elses", {INSTALLATION_LABEL: "i-11"})
        ledger.add(collection, "tf-installation")
    found = list(subject.provider.leftovers())
    assert {(one.kind, one.id, one.attached_to) for one in found} == expected
    assert len(found) == len(expected) and all(one.mark for one in found)
    for one in found:
        dated = not one.id.startswith("reserved-ips/")  # Vultr says no date of these
        assert (one.created_at is not None) == dated
    priced = {one.id.partition("/")[0]: one.price_per_hour for one in found}
    prices = {"primary_ips": 0.01, "floating_ips": 0.01, "volumes": 0.001, "blocks": 0.01, "reserved-ips": None}
    if subject.provider.name == "digitalocean":
        prices["volumes"] = None  # nor of what a volume costs
    assert priced == pytest.approx({name: prices[name] for name in priced})


@every_cloud
def test_provider_conformance_what_is_released_is_gone_and_nothing_beside_it(subject: Subject) -> None:
    """Repeating it is harmless: one that nobody knows is given up."""
    assert subject.cloud is not None
    ledger = subject.cloud.ledger
    for collection in _COLLECTIONS[subject.provider.name]:
        mine = ledger.add(collection, f"{PREFIX}disk", _labels(subject))
        other = ledger.add(collection, f"{PREFIX}other", _labels(subject))
        found = next(one for one in subject.provider.leftovers() if one.id == f"{collection}/{mine.id}")
        assert subject.provider.release(found)
        assert ledger.standing(collection) == [other]
        assert subject.provider.release(found)
        assert ledger.standing(collection) == [other]


@every_cloud
def test_provider_conformance_what_changed_since_it_was_listed_is_not_released(subject: Subject) -> None:
    """A server took it, or somebody made it theirs by another name or mark: it is read again right before."""
    assert subject.cloud is not None
    ledger = subject.cloud.ledger
    for collection in _COLLECTIONS[subject.provider.name]:
        taken = ledger.add(collection, f"{PREFIX}taken", _labels(subject))
        renamed = ledger.add(collection, f"{PREFIX}renamed", _labels(subject))
        disowned = ledger.add(collection, f"{PREFIX}disowned", _labels(subject))
        listed = {one.label: one for one in subject.provider.leftovers()}
        taken.attached_to, renamed.name = "1001", f"{PREFIX}elsewhere"
        disowned.labels, disowned.name = {INSTALLATION_LABEL: "i-2"}, "tf-another-disowned"
        for name in ("taken", "renamed", "disowned"):
            subject.provider.release(listed[f"{PREFIX}{name}"])
        assert ledger.standing(collection) == [taken, renamed, disowned]


@pytest.mark.parametrize("subject", ["hetzner"], indirect=True)
def test_provider_conformance_a_price_list_that_fails_hides_nothing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ours is known without it; its cost is then not known, which is not nothing."""
    assert subject.cloud is not None
    subject.cloud.ledger.add("volumes", "disk", _labels(subject))
    with monkeypatch.context() as broken:
        broken.setattr("tests.support.fake_cloud.leftovers._PRICING", {"volume": "a page of something else"})
        (found,) = subject.provider.leftovers()
    assert found.price_per_hour is None
