"""The guarantees of what is paid for besides servers: addresses and volumes; and prices."""

from __future__ import annotations

import pytest

from taskflow.nodes.providers.hetzner import INSTALLATION_LABEL
from tests.support.provider_subjects import COLLECTIONS, PREFIX, Subject, every_cloud


def _labels(subject: Subject) -> dict[str, str]:
    return {INSTALLATION_LABEL: "i-1"} if subject.provider.name == "hetzner" else {}


@every_cloud
def test_provider_conformance_addresses_and_volumes_of_ours_are_listed_whole(subject: Subject) -> None:
    """Of every kind and from every page, with what has them; nothing that lacks the mark."""
    assert subject.cloud is not None
    expected, ledger = set(), subject.cloud.ledger
    for collection, kind in COLLECTIONS[subject.provider.name].items():
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
    for collection in COLLECTIONS[subject.provider.name]:
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
    for collection in COLLECTIONS[subject.provider.name]:
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
