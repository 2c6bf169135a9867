"""What the control plane talks to: a provider, node agents, the wire to them, and the callbacks that come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import requests

from taskflow import protocol
from taskflow.db.runs import payload_hash
from taskflow.errors import Gone, OutcomeUnknown, UsageError
from taskflow.nodes.providers.base import NodeOrder, Server
from taskflow.service import Service
from tests.simulation.fibers import Fiber
from tests.simulation.gate import Gate
from tests.support.fake_agent import FakeAgent, Plan, Tell, outcome
from tests.support.fake_provider import FakeProvider, Wire
from tests.support.virtual import Planner

#: Starts a request in the web process: its label, what it does with the service, what to do when it is over.
Ask = Callable[[str, Callable[[Service], Any], Callable[[Fiber], None]], None]


class Post:
    """Carries callbacks: loses, repeats, delays and contradicts them; the sender repeats until it has an answer."""

    def __init__(self, gate: Gate, planner: Planner, ask: Ask) -> None:
        self._gate, self._planner, self._ask = gate, planner, ask
        #: (subject) -> what the control plane accepted for it; and what it called late.
        self.accepted: dict[str, Mapping[str, Any]] = {}
        self.late: dict[str, Mapping[str, Any]] = {}
        self.contradictions: list[str] = []
        self.under_way = 0

    def send(self, agent: SimulatedAgent, tell: Tell, subject: str, payload: dict[str, Any], token: str) -> None:
        """Send until it is answered for good."""
        chance = self._gate.chance
        self.under_way += 1
        if chance.fault("callback_lost"):
            self._planner.after(chance.between(0.5, 20.0), lambda: self._again(agent, tell, subject, payload, token))
            return
        delay_s = chance.between(5.0, 40.0) if chance.fault("callback_late") else chance.between(0.0, 0.2)
        self._planner.after(delay_s, lambda: self._deliver(agent, tell, subject, payload, token, repeat=True))
        if chance.fault("callback_duplicate"):
            later_s = delay_s + chance.between(0.0, 30.0)
            self._planner.after(later_s, lambda: self._deliver(agent, tell, subject, payload, token, repeat=False))
        if chance.fault("callback_contradictory"):
            other = contradiction(payload)
            other_s = chance.between(0.0, 2.0 * delay_s + 5.0)
            self._planner.after(other_s, lambda: self._deliver(agent, tell, subject, other, token, repeat=False))

    def _again(self, agent: SimulatedAgent, tell: Tell, subject: str, payload: dict[str, Any], token: str) -> None:
        self.under_way -= 1
        self.send(agent, tell, subject, payload, token)

    def _deliver(
        self, agent: SimulatedAgent, tell: Tell, subject: str, payload: dict[str, Any], token: str, *, repeat: bool
    ) -> None:
        if agent.cut:
            self.under_way -= repeat
            if repeat:
                self.under_way += 1
                wait_s = self._gate.chance.between(2.0, 10.0)
                self._planner.after(wait_s, lambda: self._again(agent, tell, subject, payload, token))
            return

        def work(service: Service) -> Any:
            caller = service.accounts.authenticate(token, "workspace")
            agent._service = service
            return tell(caller, subject, payload)

        def answered(fiber: Fiber) -> None:
            self.under_way -= repeat
            if isinstance(fiber.error, UsageError):
                self._gate.say("agent", f"refused: {subject}: {fiber.error.code}")
                return
            if not fiber.crashed and fiber.error is None:
                self._accept(subject, payload, late=bool(fiber.result.get("late")))
                if not self._gate.chance.fault("callback_lost"):
                    return
            if repeat:
                self.under_way += 1
                wait_s = self._gate.chance.between(0.5, 5.0)
                self._planner.after(wait_s, lambda: self._again(agent, tell, subject, payload, token))

        self._ask(f"callback {subject}", work, answered)

    def _accept(self, subject: str, payload: Mapping[str, Any], *, late: bool) -> None:
        said = payload.get("status") or payload.get("outcome")
        self._gate.say("agent", f"accepted{' late' if late else ''}: {subject}: {said}")
        first = (self.late if late else self.accepted).setdefault(subject, payload)
        if payload_hash(first) != payload_hash(payload):
            self.contradictions.append(subject)


def contradiction(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The same question answered the other way."""
    if "status" in payload:
        error = {"code": "forged", "message": "it is not so", "phase": "setup"}
        said = {"status": "failed", "base_commit": None, "error": error}
        return protocol.load(protocol.WorkspaceOutcomeSchema, said)
    return outcome("exited", exit_code=17, output_branch=payload.get("output_branch"))


class SimulatedAgent(FakeAgent):
    """A node agent whose callbacks travel by ``Post``."""

    def __init__(
        self, order: NodeOrder, service: Service, planner: Planner, plan: Plan, gate: Gate, post: Post, ask: Ask,
        dead: set[str],
    ) -> None:  # fmt: skip
        super().__init__(order, service, planner, plan)
        self._gate, self._post, self._ask, self._dead = gate, post, ask, dead
        self.created_after_delete: list[str] = []
        self._retired = False

    def _create(self, workspace_id: str, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        before = self.created[workspace_id]
        answer = super()._create(workspace_id, order)
        made = self.created[workspace_id] > before
        if made and workspace_id in self.tombstones:
            self.created_after_delete.append(workspace_id)
        if made and self._gate.chance.fault("callback_early"):
            self.finish_workspace(workspace_id)
        return answer

    def finish_workspace(self, workspace_id: str, *, tell: bool = True) -> None:
        """Ready, or now and then failed."""
        known = self.workspaces.get(workspace_id)
        if known is None or known["status"] != "creating":
            return
        broken = self._gate.chance.often(0.06)
        said = {"code": "setup_failed", "message": "make: no rule", "phase": "setup"} if broken else None
        self.plan = replace(self.plan, workspace_error=said)
        super().finish_workspace(workspace_id, tell=tell)

    def finish_session(self, session_id: str, said: Mapping[str, Any] | None = None, *, tell: bool = True) -> None:
        """Well, or now and then with a status that is none."""
        if said is None and self._gate.chance.often(0.15):
            said = {"outcome": "exited", "exit_code": 1}
        super().finish_session(session_id, said, tell=tell)

    def send(self, tell: Tell, subject: str, payload: dict[str, Any], token: str) -> None:
        """By post."""
        self._post.send(self, tell, subject, payload, token)

    def boot(self) -> None:
        """Beat, and go on beating; a beat that is lost is lost."""
        if not self.alive or self._retired:
            return
        self.watch()
        sent_at = time.time()

        def work(service: Service) -> Any:
            caller = service.accounts.authenticate(self.node_key[0], "node")
            return service.callbacks.node_heartbeat(caller, self.order.node_id, self.beat())

        def answered(fiber: Fiber) -> None:
            self._retired = isinstance(fiber.error, Gone)
            if not fiber.crashed and fiber.error is None and not self.cut:
                self.take_tokens(fiber.result)
                self.reached(sent_at)

        if not self.cut and not self._gate.chance.fault("callback_lost"):
            self._ask(f"heartbeat {self.order.node_id}", work, answered)
        self._planner.after(self.order.agent["heartbeat_interval_s"], self.boot)

    def watch(self) -> None:
        """The dead-man switch; what it ends counts as lost with its machine."""
        before = self.cut_off
        super().watch()
        if self.cut_off and not before:
            self._gate.say("agent", f"DEAD MAN: {self.order.node_id} ends its sessions")
            self._dead.add(self.order.node_id)

    def running(self) -> list[str]:
        """The tasks whose commands run here at this moment."""
        if not self.alive:
            return []
        workspaces = [one["workspace_id"] for one in self.sessions.values() if one["outcome"] is None]
        return [self.workspaces[one]["content"]["task_id"] for one in workspaces if one in self.workspaces]


class SimulatedProvider(FakeProvider):
    """A cloud that forgets to answer, whose machines may die. It keeps the port's promise: one label, one server."""

    def __init__(self, planner: Planner, gate: Gate, post: Post, ask: Ask) -> None:
        super().__init__(planner, Plan())
        self._gate, self._post, self._ask = gate, post, ask
        self.dead: set[str] = set()

    def make_agent(self, order: NodeOrder, service: Service) -> FakeAgent:
        """Each takes its own time."""
        chance = self._gate.chance
        plan = Plan(workspace_s=chance.between(0.05, 3.0), session_s=chance.between(0.05, 8.0))
        return SimulatedAgent(order, service, self.planner, plan, self._gate, self._post, self._ask, self.dead)

    def create(self, order: NodeOrder) -> Server:
        """Buy a server, or hear that it was bought."""
        self.plan.boot_s = self._gate.chance.between(0.1, 5.0)

        def work() -> Server:
            if self.states.get(order.label) == "running":
                return Server(order.label, order.label, "running")
            return super(SimulatedProvider, self).create(order)

        return self._call("provider create", work)

    def kill_one(self) -> None:
        """A machine goes away without a word."""
        living = [label for label, state in self.states.items() if state == "running"]
        if living:
            label = self._gate.chance.order.choice(living)
            self._gate.say("provider", f"MACHINE DIES: {label}")
            self.states[label] = "destroyed"
            self.agents[label].alive = False
            self.dead.add(self.agents[label].order.node_id)

    def cut_one(self, longest_s: float) -> None:
        """The link to a machine is down for a while; nothing gets through, either way."""
        living = [label for label, state in self.states.items() if state == "running" and not self.agents[label].cut]
        if living:
            label, seconds = self._gate.chance.order.choice(living), self._gate.chance.between(5.0, longest_s)
            self._gate.say("network", f"LINK CUT: {label}, for {seconds:.0f} s")
            self.agents[label].cut = True
            self.planner.after(seconds, self.agents[label].heal)

    def get(self, server_id: str) -> Server | None:
        """Its state."""
        return self._call("provider get", lambda: super(SimulatedProvider, self).get(server_id))

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """Let it go."""
        return self._call("provider destroy", lambda: super(SimulatedProvider, self).destroy(server_id, ask=ask))

    def _call(self, name: str, work: Callable[[], Any]) -> Any:
        return passing(self._gate, name, work, lambda: OutcomeUnknown("no answer", code="provider_timeout"))


class SimulatedWire(Wire):
    """The network between the control plane and the agents."""

    def __init__(self, provider: FakeProvider, gate: Gate) -> None:
        super().__init__(provider)
        self._gate = gate

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """One request; its answer may not come back."""
        name = f"agent {method} {url.rsplit('/', 1)[-1].split('?')[0]}"
        return passing(
            self._gate, name, lambda: super(SimulatedWire, self).request(method, url, **kwargs), requests.ReadTimeout
        )


def passing(gate: Gate, name: str, work: Callable[[], Any], lost: Callable[[], Exception]) -> Any:
    """An outside call of the fiber at work: it may die before and after, stall past its lease, or never hear back."""
    fiber = gate.current
    if fiber is None:
        return work()
    gate.touch(fiber.process, f"before {name}")
    gate.stall(fiber.process, f"before {name}")
    result = work()
    gate.say(fiber.process.name, f"{name} ({fiber.label})")
    gate.stall(fiber.process, f"after {name}")
    gate.touch(fiber.process, f"after {name}")
    if gate.chance.fault("answer_lost"):
        gate.say(fiber.process.name, f"ANSWER LOST of {name}")
        raise lost()
    return result
