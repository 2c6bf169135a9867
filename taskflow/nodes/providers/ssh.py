"""Machines that the user already has, reached over SSH. Each is sold as one offer, and to one node at a time.

A host is claimed by a directory on it that appears by one rename, so that exactly one wins, of two workers and of two
installations that share its account; see ``ssh_host`` for what stands there. Making a node is three requests, each of which
may be repeated: the claim, the agent's file where it is another one, the order with its keeper.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taskflow.clock import Clock
from taskflow.errors import InfrastructureError, StepError, TransientError
from taskflow.nodes.providers.base import (
    AccessRefused,
    Leftover,
    NoCapacity,
    NodeOrder,
    OrderInvalid,
    ProviderUnavailable,
    Server,
)
from taskflow.nodes.providers.ssh_link import Account, Host, NoPython, Session, on_all, on_host
from taskflow.protocol import AGENT_LOG_BYTES_MAX

#: When a host that somebody has is worth asking again, in seconds: a node that goes frees it any time.
_TAKEN_S = 15.0
#: A server id is ``<host>/<label>``.
_PARTS = "/"


class SshProvider:
    """``hosts`` by the name of their offer. ``prefix`` says how labels of this installation begin; ``agent_file`` makes the
    agent's file or says where it is; ``ca`` is the PEM text that agents check the control plane by, empty for their
    system's; ``isolate``: whether orders will ask for a user for each workspace; ``timeout_s`` bounds each call."""

    creates_once = told_at_once = True

    def __init__(
        self, name: str, *, account: Account, hosts: dict[str, Host], prefix: Callable[[], str],
        agent_file: Callable[[], Path], control_plane_url: str, ca: str, isolate: bool, clock: Clock, timeout_s: float,
    ) -> None:  # fmt: skip
        self.name = name
        self._account = account
        self._hosts = hosts
        self._prefix = prefix
        self._agent_file = agent_file
        self._control_plane_url = control_plane_url
        self._ca = ca
        self._isolate = isolate
        self._clock = clock
        self._timeout_s = timeout_s

    def find_by_label(self, label: str) -> Server | None:
        """The node of this label, once its keeper was started: an order that is half done is gone on with by ``create``.

        A host that can't be asked is left out. A label is only where its order went, and there ``create`` fails as well.
        Raises when no host at all could be asked.
        """
        answers = self._ask_all(_look)
        found = self._found(label, answers)
        if found is None and all(isinstance(answer, StepError) for _, answer in answers):
            raise _joined(answers)
        return None if found is None or found.state == "starting" else found

    def create(self, order: NodeOrder) -> Server:
        """Claim the host that ``order.size`` names, and start the agent there. Raises ``NoCapacity`` when it is taken."""
        host = self._hosts.get(order.size)
        if host is None:
            raise OrderInvalid(f"provider {self.name} has no host {order.size}")
        agent = self._agent()
        wanted = hashlib.sha256(agent).hexdigest()
        isolate = bool(order.agent.get("isolate"))
        told = {**order.agent, "advertise_host": host.address}

        async def work(session: Session) -> str:
            claim = _standing(host, order.label, await session.ask("claim", label=order.label, isolate=isolate))
            if claim["by"] != order.label:
                raise NoCapacity(f"host {host.name} is taken by {claim['by']}", retry_after_s=_TAKEN_S)
            if claim["state"] != "starting":
                return str(claim["state"])
            if claim["agent"] != wanted:
                put = await session.ask("put_agent", agent, label=order.label, hash=wanted)
                _standing(host, order.label, put)
            started = await session.ask(
                "start", label=order.label, order=told, control_plane_url=self._control_plane_url, ca=self._ca
            )
            return str(_standing(host, order.label, started)["state"])

        state = self._ask(host, work, makes=True)
        return self._server(host, order.label, state, self._clock.now())

    def get(self, server_id: str) -> Server | None:
        """The node's state as its host says it. ``server_id`` may be a label: then every host has to answer."""
        host, label = self._parsed(server_id)
        answers = self._ask_all(_look, None if host is None else [host])
        found = self._found(label, answers)
        if found is None:
            _must_all_answer(answers)
        return found

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """End the node and give its host back; True once nothing is left. ``server_id`` may be a label: every host has to
        answer then, and each refuses the label from now on. Each call goes on with it, so ``ask`` changes nothing."""
        host, label = self._parsed(server_id)
        agent = self._agent()
        wanted = hashlib.sha256(agent).hexdigest()

        async def work(session: Session) -> bool:
            try:
                answer = await session.ask("destroy", label=label, hash=wanted)
                if answer.get("wants_agent"):
                    await session.ask("put_agent", agent, label=label, hash=wanted)
                    answer = await session.ask("destroy", label=label, hash=wanted)
            except NoPython:
                if await session.has_claim():
                    raise
                return True  # no order was ever carried out there, and none will be
            return bool(answer["gone"])

        answers = self._ask_all(work, None if host is None else [host])
        _must_all_answer(answers)
        return all(answer is True for _, answer in answers)

    def inventory(self) -> Sequence[Server]:
        """The nodes of this installation on all hosts, half made ones too. Raises when one host can't be asked."""
        answers, prefix = self._ask_all(_look), self._prefix()
        _must_all_answer(answers)
        return [
            self._server(host, answer["label"], answer["state"], self._clock.now() - answer["age_s"])
            for host, answer in answers
            if isinstance(answer, dict) and answer["label"] is not None and answer["label"].startswith(prefix)
        ]

    def leftovers(self) -> Sequence[Leftover]:
        """None: what a node has on its host goes with its claim."""
        return ()

    def release(self, leftover: Leftover) -> bool:
        """There is nothing to give up."""
        return True

    def check(self) -> str:
        """Log in everywhere and see whether nodes could be made. Raises with what is wrong, host by host."""

        async def work(session: Session) -> dict[str, Any]:
            return await session.ask("check", isolate=self._isolate)

        answers = self._ask_all(work)
        _must_all_answer(answers)
        taken = sum(isinstance(answer, dict) and answer["label"] is not None for _, answer in answers)
        return f"all {len(answers)} hosts let us in and could run an agent; {taken} of them run one"

    def agent_log(self, server_id: str, *, timeout_s: float) -> str:
        """The end of what a node's agent and keeper said, as its host has it."""
        host, label = self._parsed(server_id)
        if host is None:
            raise ProviderUnavailable(f"server {server_id} names no host")

        async def work(session: Session) -> str:
            return str((await session.ask("log", label=label, bytes=AGENT_LOG_BYTES_MAX)).get("log", ""))

        return asyncio.run(on_host(self._account, host, work, timeout_s=timeout_s))

    # --- inside

    def _agent(self) -> bytes:
        try:
            return self._agent_file().read_bytes()
        except (OSError, InfrastructureError) as error:
            raise TransientError(f"there is no agent to put on a host: {error}", code="agent_file") from error

    def _ask(self, host: Host, work: Callable[[Session], Any], *, makes: bool) -> Any:
        try:
            return asyncio.run(on_host(self._account, host, work, timeout_s=self._timeout_s, makes=makes))
        except NoPython as error:
            raise OrderInvalid(error.message, advice=error.advice) from error

    def _ask_all(self, work: Callable[[Session], Any], hosts: Sequence[Host] | None = None) -> list[tuple[Host, Any]]:
        asked = list(self._hosts.values()) if hosts is None else hosts
        return asyncio.run(on_all(self._account, asked, work, timeout_s=self._timeout_s))

    def _parsed(self, server_id: str) -> tuple[Host | None, str]:
        """The host and the label; no host for a label alone. A host that is not in the catalogue can't be asked."""
        name, parted, label = server_id.rpartition(_PARTS)
        if not parted:
            return None, label
        found = next((host for host in self._hosts.values() if host.name == name), None)
        if found is None:
            raise ProviderUnavailable(
                f"server {server_id} is on a host that provider {self.name} does not have any more",
                advice=f"put {name} back into the catalogue until its node is gone",
            )
        return found, label

    def _found(self, label: str, answers: Sequence[tuple[Host, Any]]) -> Server | None:
        for host, answer in answers:
            if isinstance(answer, dict) and answer["label"] == label:
                return self._server(host, label, answer["state"], self._clock.now() - answer["age_s"])
        return None

    def _server(self, host: Host, label: str, state: str, created_at: float) -> Server:
        size = next(size for size, one in self._hosts.items() if one == host)
        ours = self._prefix()
        return Server(
            f"{host.name}{_PARTS}{label}", label, state, address=host.address, size=size, created_at=created_at,
            mark=ours if label.startswith(ours) else "",
        )  # fmt: skip


async def _look(session: Session) -> dict[str, Any]:
    try:
        return await session.ask("look")
    except NoPython:
        if await session.has_claim():
            raise
        return {"label": None}


def _standing(host: Host, label: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, unless the label was destroyed: by whoever paused this worker's place was taken."""
    if answer.get("destroyed"):
        raise OrderInvalid(f"node {label} on host {host.name} was destroyed")
    return answer


def _must_all_answer(answers: Sequence[tuple[Host, Any]]) -> None:
    if any(isinstance(answer, StepError) for _, answer in answers):
        raise _joined(answers)


def _joined(answers: Sequence[tuple[Host, Any]]) -> StepError:
    """What went wrong where. What only a human can mend is said as such; else it is a matter of time."""
    errors = [answer for _, answer in answers if isinstance(answer, StepError)]
    kind = next(
        (
            kind
            for kind in (AccessRefused, ProviderUnavailable, OrderInvalid)
            if any(isinstance(e, kind) for e in errors)
        ),
        ProviderUnavailable,
    )
    advice = "; ".join(dict.fromkeys(error.advice for error in errors if error.advice))
    return kind("; ".join(dict.fromkeys(error.message for error in errors)), advice=advice or None)
