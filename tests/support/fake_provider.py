"""A provider that hands out fake agents, and the wire to them.

The control plane's own HTTP client runs unchanged; only ``requests`` below it is replaced by ``Wire``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.auth import AuthBase

from taskflow.errors import OutcomeUnknown, PermanentError
from taskflow.nodes.providers.base import HostUnreachable, Leftover, NoCapacity, NodeOrder, Server
from taskflow.service import Service
from tests.support.fake_agent import FakeAgent, Plan
from tests.support.virtual import Planner


class FakeProvider:
    """A cloud without a cloud. ``create`` is not idempotent on purpose: whoever asks twice buys twice."""

    name = "local"
    creates_once = told_at_once = False

    def __init__(self, planner: Planner, plan: Plan) -> None:
        self.planner = planner
        self.plan = plan
        self.service: Service | None = None
        self.bought: Counter[str] = Counter()
        self.agents: dict[str, FakeAgent] = {}
        self.states: dict[str, str] = {}
        self.calls: list[str] = []
        self.refuse: Exception | None = None
        #: Sold-out (size, location), and those that can't be reached; how many creates lose their answer; how long a server
        #: is missing from look-ups.
        self.sold_out: set[tuple[str, str]] = set()
        self.unreachable: set[tuple[str, str]] = set()
        self.lose_answers = 0
        self.lag_s = 0.0
        #: Called at the end of a look-up, when what it found is known: who asked may pause before it hears.
        self.after_look_up: Callable[[], object] = lambda: None
        self.orders: list[NodeOrder] = []
        self._visible_at: dict[str, float] = {}
        self.destroy_takes = 0

    def find_by_label(self, label: str) -> Server | None:
        """The server with this label, once the listing has it."""
        found = None if time.time() < self._visible_at.get(label, 0.0) else self.get(label)
        self.after_look_up()
        return found

    def create(self, order: NodeOrder) -> Server:
        """Buy a server; its agent reports after the planned boot time."""
        self.calls.append("create")
        if self.refuse is not None:
            raise self.refuse
        if (order.size, order.location) in self.sold_out:
            raise NoCapacity(f"no {order.size} at {order.location}")
        if (order.size, order.location) in self.unreachable:
            raise HostUnreachable(f"{order.size} at {order.location} can't be reached")
        if self.states.get(order.label) == "destroyed":
            raise PermanentError("destroyed before", code="provider_invalid")
        assert self.service is not None
        self.bought[order.label] += 1
        self.orders.append(order)
        self._visible_at[order.label] = time.time() + self.lag_s
        self.states[order.label] = "running"
        self.agents[order.label] = agent = self.make_agent(order, self.service)
        if self.plan.boot_s is not None:
            self.planner.after(self.plan.boot_s, agent.boot)
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise OutcomeUnknown("no answer")
        return Server(order.label, order.label, "running")

    def make_agent(self, order: NodeOrder, service: Service) -> FakeAgent:
        """The agent of a new server."""
        return FakeAgent(order, service, self.planner, self.plan)

    def get(self, server_id: str) -> Server | None:
        """The server's state."""
        state = self.states.get(server_id)
        return None if state is None else Server(server_id, server_id, state)

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """True once it is gone, after ``destroy_takes`` calls that say: not yet."""
        self.calls.append("destroy" if ask else "gone?")
        if self.destroy_takes > 0:
            self.destroy_takes -= 1
            return False
        if time.time() < self._visible_at.get(server_id, 0.0):
            return True  # a label that no listing has yet: nobody here knows of a server
        self.states[server_id] = "destroyed"
        if server_id in self.agents:
            self.agents[server_id].alive = False
            self.agents[server_id].workspaces.clear()  # they went with their machine
        return True

    def leftovers(self) -> list[Leftover]:
        """None."""
        return []

    def release(self, leftover: Leftover) -> bool:
        """There is nothing to give up."""
        return True

    def check(self) -> str:
        """Always fine."""
        return "it answers"

    def inventory(self) -> list[Server]:
        """Servers that are not destroyed."""
        return [Server(label, label, state) for label, state in self.states.items() if state != "destroyed"]


class Wire:
    """Stands in for ``requests`` below the agent client, and misbehaves when told."""

    def __init__(self, provider: FakeProvider) -> None:
        self._provider = provider
        self.calls: list[tuple[str, str]] = []
        #: The headers of each, beside those that authorise it.
        self.headers: list[dict[str, str]] = []
        #: Asked before each request; may raise what ``requests`` raises, or give a status and body to answer.
        self.before: Callable[[str, str], tuple[int, dict[str, Any]] | None] = lambda method, path: None
        #: Asked after each request was carried out; may raise (the answer got lost).
        self.after: Callable[[str, str], None] = lambda method, path: None

    def __getattr__(self, name: str) -> Any:
        return getattr(requests, name)

    def Session(self) -> _Session:
        """``requests.Session``."""
        return _Session(self)

    def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        auth: AuthBase | None = None,
        headers: dict[str, str] | None = None,
        **_: Any,
    ) -> requests.Response:
        """``Session.request``: finds the agent by its address and asks it."""
        sent = requests.Request(method, url, json=json, auth=auth).prepare()
        parts = urlsplit(url)
        agent = next((one for one in self._provider.agents.values() if one.address == f"http://{parts.netloc}"), None)
        self.calls.append((method, parts.path))
        self.headers.append(dict(headers or {}))
        said = self.before(method, parts.path)
        if agent is not None and agent.cut:
            raise requests.ConnectTimeout("no route to host")
        if agent is None or not agent.alive:
            raise requests.ConnectionError("connection refused")
        if said is None:
            body = sent.body or b""
            assert isinstance(body, bytes)
            said = agent.refusal(method, sent.path_url, sent.headers.get("Authorization"), body, time.time())
            # A worker that was paused for long shows an old one; any other refusal is a fault of ours.
            assert said is None or said[1]["code"] == "clock", "not signed with the agent's token"
        status, body_said = said or agent.answer(method, parts.path, parse_qs(parts.query), json)
        self.after(method, parts.path)
        return _response(status, body_said)

    def made(self, method: str, ending: str = "") -> int:
        """How many requests of this method went to a path that holds ``ending``."""
        return sum(1 for verb, path in self.calls if verb == method and ending in path)


class _Session:
    """What of ``requests.Session`` the agent client uses."""

    trust_env = True

    def __init__(self, wire: Wire) -> None:
        self.request = wire.request

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _response(status: int, body: Any) -> requests.Response:
    found = requests.Response()
    found.status_code = status
    found.reason = "said"
    found._content = json.dumps(body).encode()
    return found
