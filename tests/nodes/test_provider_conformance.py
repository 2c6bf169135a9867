"""One set of guarantees for every provider. ``-k provider_conformance -v`` lists them.

``local`` runs a real node host, ``ssh`` asks real SSH servers (more of it in test_ssh_*.py). The clouds are driven
by the real client libraries over real HTTP; what answers is a cloud on this machine that keeps books, so that what was
bought is counted there and not in what was said.
"""

from __future__ import annotations

from tests.support.provider_subjects import Subject, destroy, every_provider


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
