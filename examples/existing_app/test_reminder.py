"""The reminder on virtual time; the application's own task is one that remembers what it was sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from examples.existing_app.pipeline import REMINDER
from taskflow.errors import InvalidInput
from taskflow.testing import Kit

GIVEN = {"to": "ada@example.com", "text": "the book"}


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Mails by their key: one that is sent again is the same."""
    sent: dict[str, str] = {}
    task = SimpleNamespace(delay=lambda key, to, text: sent.update({key: text}))
    monkeypatch.setitem(sys.modules, "examples.existing_app.app", SimpleNamespace(send_mail=task))
    return sent


@pytest.fixture
def kit(mails: dict[str, str]) -> Iterator[Kit]:
    """An installation that knows the pipeline."""
    with Kit(REMINDER) as made:
        yield made


def test_who_answers_is_not_reminded(kit: Kit, mails: dict[str, str]) -> None:
    """However long the wait would have been."""
    run = kit.start("reminder", GIVEN)
    kit.advance(3600)
    run.signal("answered")
    assert (run.result, list(mails.values())) == ({"answered": True}, ["the book"])


def test_who_does_not_is_reminded_once(kit: Kit, mails: dict[str, str]) -> None:
    """After a day, by a worker that dies in doing so and its successor."""
    run = kit.start("reminder", GIVEN)
    kit.crash_at("performed:remind")
    run.finish()
    assert kit.crashes == ["performed:remind"]
    assert (run.result, list(mails.values())) == ({"answered": False}, ["the book", "Again: the book"])


def test_an_answer_that_came_while_no_worker_was_there_counts(kit: Kit, mails: dict[str, str]) -> None:
    """It is looked at after the time is over, and found."""
    run = kit.start("reminder", {**GIVEN, "wait_s": 60})
    known = kit.app.pipelines.pop("reminder")
    run.signal("answered")
    kit.advance(120)
    kit.app.pipelines["reminder"] = known
    assert run.finish().result == {"answered": True}
    assert list(mails.values()) == ["the book"]


def test_an_address_that_is_none_is_refused(kit: Kit) -> None:
    """Naming the field."""
    with pytest.raises(InvalidInput) as refused:
        kit.start("reminder", {"to": "ada", "text": "the book"})
    assert list(refused.value.fields) == ["input.to"]
