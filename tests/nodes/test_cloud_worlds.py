"""Nodes on servers of a cloud, from the order to the bill: the real client libraries over HTTP, on virtual time. What is
counted are the cloud's own books."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from taskflow.nodes.providers.base import Server
from tests.support.cloud_world import MAKERS, CloudWorld, cloud_world
from tests.support.fake_cloud import Faults
from tests.support.world_fixtures import MakeWorld

Make = Callable[..., CloudWorld]


@pytest.fixture
def make(make_world: MakeWorld, tmp_path: Path) -> Iterator[Make]:
    """Makes a world that buys from a cloud of a kind; keyword arguments are settings."""
    with ExitStack() as stack:

        def made(kind: str, **settings: Any) -> CloudWorld:
            return stack.enter_context(cloud_world(kind, make_world, tmp_path, **settings))

        yield made


every_kind = pytest.mark.parametrize("kind", MAKERS)


# --- buying one


@pytest.mark.parametrize("kind", ["digitalocean", "vultr"])
def test_two_workers_buy_one_server_although_its_name_is_sold_twice(
    make: Make, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The first sleeps after it found no server of this name, until the second has looked late enough, and bought."""
    place = make(kind)
    world = place.world
    provider = world.app.tools.providers["cloud"]
    look_up = provider.find_by_label
    slept: list[str] = []

    def look_up_and_sleep(label: str) -> Server | None:
        found = look_up(label)
        if not slept:
            slept.append(label)
            world.start_worker()
            world.run_until(lambda: place.cloud.ledger.creates, "another worker bought")
        return found

    monkeypatch.setattr(provider, "find_by_label", look_up_and_sleep)
    assert world.finish(place.submit())["status"] == "completed"
    assert slept and (place.cloud.ledger.creates, place.cloud.ledger.bought_twice()) == (1, [])


# --- looking at a server


def test_a_server_that_is_moved_while_its_link_is_cut_is_not_condemned(make: Make) -> None:
    """Its provider says "migrating", which is no second sign: it comes back, and its task goes on."""
    place = make("hetzner")
    world = place.world
    world.plan.session_s = None
    task = place.submit()
    world.at_step(task, "running")
    server = place.cloud.ledger.alive()[0]
    place.agent.cut, server.status = True, "migrating"
    world.run_for(world.settings.dead_man_s - 60.0)
    assert world.node().status == "active" and world.node().error is None
    assert "its provider could not say how its server is" in world.why(task["id"])["summary"]
    place.agent.heal()
    server.status = "running"
    place.agent.finish_session(next(iter(place.agent.sessions)))
    assert world.finish(task)["status"] == "completed"


@every_kind
def test_a_server_that_somebody_deletes_while_it_boots_is_not_waited_for(make: Make, kind: str) -> None:
    """Clouds answer "there is none": the quarter of an hour that an agent may take is not spent on it."""
    place = make(kind)
    world = place.world
    world.plan.boot_s = None
    task = place.submit()
    world.node_is("awaiting_agent")
    place.cloud.ledger.delete(place.cloud.ledger.alive()[0].server_id)
    bought_at = world.node().bought_at

    done = world.finish(task)

    assert (done["status"], done["error"]["code"]) == ("failed", "node_failed")
    assert world.errors(world.node().run_id) == ["server_gone"]
    assert time.time() - bought_at < world.settings.agent_ready_timeout_s / 2


@every_kind
def test_a_server_that_is_not_listed_yet_while_it_boots_is_waited_for(make: Make, kind: str) -> None:
    """A listing that lags says the same of it as of one that is gone: it counts when it can't be behind any more."""
    place = make(kind)
    place.world.plan.boot_s = 50.0
    place.cloud.faults.lag_s = 45.0
    assert place.world.finish(place.submit())["status"] == "completed"
    assert place.cloud.ledger.creates == 1


# --- giving one back


def _given_back(place: CloudWorld) -> tuple[int, float]:
    """How many requests it took to give the only server back, and how long."""
    world, ledger = place.world, place.cloud.ledger
    world.finish(place.submit())
    world.run_until(lambda: ledger.deletes, "its deletion is asked for")
    requests, began = ledger.requests, time.time()
    world.node_is("destroyed")
    assert ledger.alive() == []
    return ledger.requests - requests, time.time() - began


@every_kind
def test_a_deletion_that_takes_long_is_asked_for_rarely_and_looked_for_ever_more_rarely(make: Make, kind: str) -> None:
    """Every request counts against the provider's limit, of which other nodes live too."""
    place = make(kind, provider_settle_s=1.0)
    place.cloud.faults.deleting_s = 300.0
    requests, took_s = _given_back(place)
    assert requests < 45  # two a second and more would be 600
    assert 2 <= place.cloud.ledger.deletes <= 6
    assert 300.0 <= took_s < 320.0


@every_kind
def test_a_deletion_at_once_is_seen_at_once(make: Make, kind: str) -> None:
    """Who looks more rarely later looks soon first."""
    place = make(kind, provider_settle_s=1.0)
    _, took_s = _given_back(place)
    assert took_s < 2.0
    assert place.cloud.ledger.deletes == 1


@every_kind
def test_a_deletion_that_came_to_nothing_is_asked_for_again(make: Make, kind: str) -> None:
    """It was answered and nothing happened: what still stands is still paid for."""
    place = make(kind, provider_settle_s=1.0)
    place.cloud.faults.slow_deletes = 2
    _, took_s = _given_back(place)
    assert place.cloud.ledger.deletes == 3
    assert took_s < 180.0


def test_another_worker_asks_for_a_deletion_itself(make: Make) -> None:
    """Who asked last is known to one process: the next one can't know whether the request ever left."""
    place = make("hetzner", provider_settle_s=1.0)
    place.cloud.faults.slow_deletes = 1
    world = place.world
    world.finish(place.submit())
    world.run_until(lambda: place.cloud.ledger.deletes, "its deletion is asked for")
    began = time.time()
    world.start_worker()
    world.node_is("destroyed")
    assert place.cloud.ledger.deletes == 2
    assert time.time() - began < 10.0


# --- too many requests, each of which is told to come back after ``Faults.too_many_s``


def _times(place: CloudWorld, method: str) -> list[float]:
    return [at for at, asked in place.cloud.ledger.asked if asked == method]


def _gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(times)]


@every_kind
def test_a_purchase_that_is_one_request_too_many_is_made_when_the_provider_allows_it(make: Make, kind: str) -> None:
    """Not before, and once: nothing was bought by those that were refused."""
    place = make(kind)
    place.cloud.faults.too_many = {"POST": 2}
    assert place.world.finish(place.submit())["status"] == "completed"
    assert place.world.errors(place.world.node().run_id) == ["provider_rate_limited"] * 2
    asked = _times(place, "POST")
    assert len(asked) == 3
    if kind == "hetzner":  # where a label is sold once: the others are looked up late before they are asked again
        assert all(Faults.too_many_s <= gap < Faults.too_many_s + 2.0 for gap in _gaps(asked))
    assert min(_gaps(asked)) >= Faults.too_many_s
    assert (place.cloud.ledger.creates, place.cloud.ledger.bought_twice()) == (1, [])


@every_kind
def test_a_look_up_that_is_one_request_too_many_buys_nothing(make: Make, kind: str) -> None:
    """What was not looked up is not known to be missing."""
    place = make(kind)
    place.cloud.faults.too_many = {"GET": 2}
    assert place.world.finish(place.submit())["status"] == "completed"
    assert place.cloud.ledger.creates == len(_times(place, "POST")) == 1
    refused = _times(place, "GET")[:3]
    if kind != "vultr":  # which does not say when
        assert min(_gaps(refused)) >= Faults.too_many_s


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@every_kind
def test_a_server_whose_deletion_is_one_request_too_many_is_given_back_later(
    make: Make, kind: str, method: str
) -> None:
    """It still stands and is paid for: the node is not destroyed until it is gone, and nobody asks in between."""
    place = make(kind, provider_settle_s=1.0)
    world, ledger = place.world, place.cloud.ledger
    world.finish(place.submit())
    world.node_is("warm")
    place.cloud.faults.too_many = {method: 2}
    requests = ledger.requests
    world.node_is("draining")
    world.run_until(lambda: world.node().destroyed_at, "the node is destroyed")
    assert (ledger.alive(), ledger.deletes) == ([], 1)
    assert ledger.requests - requests < 10
    if kind != "vultr":
        asked = [at for at, used in ledger.asked[requests:] if used == method]
        assert min(_gaps(asked)[:2]) >= Faults.too_many_s


def test_an_hour_of_requests_that_is_used_up_holds_nobody_for_an_hour(make: Make) -> None:
    """They come back one by one long before the header's time: who waits asks again after a minute at most."""
    place = make("hetzner")
    place.cloud.faults.requests_per_hour = 3600
    for _ in range(3600):
        place.cloud.ledger.enter(place.cloud.ledger.token, "GET")
    began = time.time()
    assert place.world.finish(place.submit())["status"] == "completed"
    assert time.time() - began < 180.0
    assert place.cloud.ledger.refused_for_rate > 0
    assert place.cloud.ledger.creates == 1
