"""What the cloud knows: every server that was ever bought, and how the cloud misbehaves."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow.clock import Clock

_HOUR_S = 3600.0


class Refusal(Exception):
    """The cloud says no. ``kind``: capacity, quota, auth, rate, invalid, taken, outage, missing, attached.

    Of too many requests: in how many seconds one is allowed again, and when the whole allowance is back.
    """

    def __init__(self, kind: str, *, again_s: float = 0.0, reset_at: float = 0.0) -> None:
        super().__init__(kind)
        self.kind = kind
        self.again_s, self.reset_at = again_s, reset_at


class AnswerLost(Exception):
    """The connection breaks; what was asked for has happened."""


class ProxyAnswers(Exception):
    """Something in between answers with a page of its own."""


class Answers(Exception):
    """This is what is answered, whatever is asked: status, body and headers."""


@dataclass
class Faults:
    """How the cloud misbehaves now. Counts go down with each time."""

    slow_s: float = 0.0
    #: Requests of one hour, all of which may come at once, and which come back evenly; None = no limit.
    requests_per_hour: int | None = None
    #: Requests of a method (GET, POST, DELETE) that are refused as too many, each for ``too_many_s``.
    too_many: dict[str, int] = field(default_factory=dict)
    too_many_s: float = 20.0
    #: (size, location) of which nothing is left; "*" is any.
    sold_out: set[tuple[str, str]] = field(default_factory=set)
    servers_max: int | None = None
    #: Creates that happen and whose answer gets lost.
    lose_answers: int = 0
    #: Requests that fail with 503 before anything happens.
    outages: int = 0
    #: Requests that a proxy answers, with a page of this status.
    proxy_pages: int = 0
    proxy_status: int = 502
    #: By method, what the next request of it is answered with: status, body, headers.
    answers: dict[str, tuple[int, Mapping[str, Any], Mapping[str, str]]] = field(default_factory=dict)
    #: How long a new server is missing from listings, and a deleted one still listed.
    lag_s: float = 0.0
    #: Deletions that are answered and come to nothing.
    slow_deletes: int = 0
    #: How long a server that is being deleted is still there.
    deleting_s: float = 0.0


@dataclass
class FakeServer:
    """One server, from its purchase to its deletion."""

    server_id: str
    name: str
    size: str
    location: str
    user_data: str
    labels: Mapping[str, str]
    created_at: float
    #: In the words of the API that serves it; "running" is said in those of each.
    status: str = "running"
    deleted_at: float | None = None


@dataclass
class FakeResource:
    """Something else that is paid for. ``collection``: what its own API calls its kind."""

    collection: str
    id: str
    name: str
    labels: Mapping[str, str]
    created_at: float
    attached_to: str | None = None
    size: int = 10
    deleted_at: float | None = None


class Ledger:
    """Thread-safe. ``unique_names``: a second server of a name is refused, as one of the real clouds does."""

    def __init__(self, clock: Clock, *, token: str = "fake-token", unique_names: bool = True) -> None:
        self.clock = clock
        self.token = token
        self.unique_names = unique_names
        self.faults = Faults()
        self.servers: dict[str, FakeServer] = {}
        self.resources: dict[str, FakeResource] = {}
        #: Servers sold, and deletions asked for, of those that were there.
        self.creates = self.deletes = 0
        self.requests = 0
        #: When each request came, and with what method; how many of them were too many.
        self.asked: list[tuple[float, str]] = []
        self.refused_for_rate = 0
        #: Called when a purchase was asked for, before anything happens, and once its answer was sent.
        self.on_asked: Callable[[], None] = lambda: None
        self.on_answered: Callable[[], object] = lambda: None
        #: Called with each new server, and with each one that went, outside the lock.
        self.on_created: Callable[[FakeServer], None] = lambda server: None
        self.on_deleted: Callable[[FakeServer], None] = lambda server: None
        self._ids = itertools.count(1001)
        self._lock = threading.RLock()
        self._used, self._used_at = 0.0, clock.now()

    def enter(self, token: str, method: str) -> None:
        """Each request passes here first. Raises ``Refusal``."""
        with self._lock:
            self.requests += 1
            self.asked.append((self.clock.now(), method))
            if token != self.token:
                raise Refusal("auth")
            if self.faults.outages > 0:
                self.faults.outages -= 1
                raise Refusal("outage")
            if self.faults.proxy_pages > 0:
                self.faults.proxy_pages -= 1
                raise ProxyAnswers(self.faults.proxy_status)
            if method in self.faults.answers:
                raise Answers(*self.faults.answers.pop(method))
            try:
                self._count(method)
            except Refusal:
                self.refused_for_rate += 1
                raise

    def _count(self, method: str) -> None:
        faults, now = self.faults, self.clock.now()
        if faults.too_many.get(method, 0) > 0:
            faults.too_many[method] -= 1
            raise Refusal("rate", again_s=faults.too_many_s, reset_at=now + faults.too_many_s)
        most = faults.requests_per_hour
        if most is None:
            return
        each_s = _HOUR_S / most if most else _HOUR_S
        self._used = max(0.0, self._used - (now - self._used_at) / each_s)
        self._used_at = now
        if self._used + 1 > most:
            again_s = (self._used + 1 - most) * each_s
            raise Refusal("rate", again_s=min(60.0, again_s), reset_at=now + max(again_s, self._used * each_s))
        self._used += 1

    def create(self, name: str, size: str, location: str, user_data: str, labels: Mapping[str, str]) -> FakeServer:
        """Sell one. Raises ``Refusal``, or ``AnswerLost`` after it was sold."""
        self.on_asked()
        with self._lock:
            faults = self.faults
            if not size.startswith("size-") or not location.startswith("place-"):
                raise Refusal("invalid")
            if self.unique_names and any(one.name == name for one in self.alive()):
                raise Refusal("taken")
            if faults.servers_max is not None and len(self.alive()) >= faults.servers_max:
                raise Refusal("quota")
            if faults.sold_out & {(size, location), (size, "*"), ("*", location), ("*", "*")}:
                raise Refusal("capacity")
            self.creates += 1
            made = FakeServer(str(next(self._ids)), name, size, location, user_data, dict(labels), self.clock.now())
            self.servers[made.server_id] = made
            lost = faults.lose_answers > 0
            faults.lose_answers -= lost
        self.on_created(made)
        if lost:
            raise AnswerLost
        return made

    def get(self, server_id: str) -> FakeServer | None:
        """One server by id; this look-up is never behind."""
        with self._lock:
            found = self.servers.get(server_id)
            return None if found is None or not self._stands(found) else found

    def delete(self, server_id: str) -> bool:
        """Delete one. False: there is none."""
        with self._lock:
            found = self.get(server_id)
            if found is None:
                return False
            self.deletes += 1
            if self.faults.slow_deletes > 0:
                self.faults.slow_deletes -= 1
                return True
            if found.deleted_at is not None:
                return True  # it is going already
            found.deleted_at = self.clock.now() + self.faults.deleting_s
        self.on_deleted(found)
        return True

    def add(
        self, collection: str, name: str, labels: Mapping[str, str] | None = None, *, attached_to: str | None = None
    ) -> FakeResource:
        """Sell an address or a volume."""
        with self._lock:
            made = FakeResource(collection, str(next(self._ids)), name, labels or {}, self.clock.now(), attached_to)
            self.resources[made.id] = made
            return made

    def standing(self, collection: str | None = None) -> list[FakeResource]:
        """Addresses and volumes that exist, of one kind or all."""
        with self._lock:
            return [
                one for one in self.resources.values()
                if one.deleted_at is None and collection in (None, one.collection)
            ]  # fmt: skip

    def resource(self, collection: str, resource_id: str) -> FakeResource:
        """One of them. Raises ``Refusal``."""
        for one in self.standing(collection):
            if one.id == resource_id:
                return one
        raise Refusal("missing")

    def drop(self, collection: str, resource_id: str) -> None:
        """Delete one. Raises ``Refusal`` for one that is not there, or that a server has."""
        with self._lock:
            found = self.resource(collection, resource_id)
            if found.attached_to is not None:
                raise Refusal("attached")
            if self.faults.slow_deletes > 0:
                self.faults.slow_deletes -= 1
                return
            found.deleted_at = self.clock.now()

    def listed(self) -> list[FakeServer]:
        """What a listing shows: as things were ``lag_s`` ago."""
        with self._lock:
            then = self.clock.now() - self.faults.lag_s
            return [
                one for one in self.servers.values()
                if one.created_at <= then and (one.deleted_at is None or one.deleted_at > then)
            ]  # fmt: skip

    def alive(self) -> list[FakeServer]:
        """Servers that exist, whatever the listings say."""
        with self._lock:
            return [one for one in self.servers.values() if self._stands(one)]

    def _stands(self, one: FakeServer) -> bool:
        return one.deleted_at is None or one.deleted_at > self.clock.now()

    def bought_twice(self) -> list[str]:
        """Names that were sold more than once."""
        names = [one.name for one in self.servers.values()]
        return sorted({name for name in names if names.count(name) > 1})
