"""What node and task steps need besides their context, put together once by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row

from taskflow.certificates import AgentAuthority
from taskflow.db.session import Database
from taskflow.db.status import LOCAL_PROVIDER
from taskflow.engine.meter import SILENT, Meter
from taskflow.errors import StepError, TransientError
from taskflow.nodes.agent_client import AgentClient, AgentTrust
from taskflow.nodes.agent_order import agent_order
from taskflow.nodes.catalogue import Catalogue
from taskflow.nodes.liveness import Liveness, Verdict, is_lost, node_verdict
from taskflow.nodes.providers.base import UNKNOWN, Provider
from taskflow.nodes.providers.factory import label_prefix
from taskflow.nodes.retirement import left_behind, outdated, too_old
from taskflow.settings import Settings
from taskflow.vault import Vault

#: How long a sweep waits for one answer of an agent, in seconds.
_HASTE_S = 5.0


@dataclass(frozen=True)
class StepTools:
    """Read access to SQL, the providers, the agents, the vault, the settings."""

    database: Database
    providers: Mapping[str, Provider]
    vault: Vault
    settings: Settings
    catalogue: Catalogue
    #: The installation's id; asks the database, once.
    installation: Callable[[], str]
    authority: AgentAuthority
    #: Bounds one request to an agent, in seconds; None: what steps allow it, ``TASKFLOW_AGENT_REQUEST_TIMEOUT_S``.
    agent_timeout_s: float | None = None
    meter: Meter = SILENT

    def in_haste(self) -> StepTools:
        """The same for a sweep, which has many agents to ask: one that does not answer must not hold up the others."""
        return replace(self, agent_timeout_s=min(_HASTE_S, self.settings.agent_request_timeout_s))

    def agent(self, node: Row[Any], now: float) -> AgentClient:
        """The client of a node's agent. Raises ``TransientError`` while its address is not known.

        ``now`` is the step's time, and its requests are signed for it: a worker that was paused for longer than a
        signature is good can't make an agent do anything any more.
        """
        if node.address is None:
            raise TransientError(f"node {node.id} has not said its address yet", code="agent_unreachable")
        trust = None
        if node.address.startswith("https:"):
            trust = AgentTrust(self.authority.context(), self.authority.name_of(node.id))
        token = self.vault.derive_token("agent", node.id)
        limit_s = self.settings.agent_request_timeout_s if self.agent_timeout_s is None else self.agent_timeout_s
        return AgentClient(node.address, token, limit_s, now=now, trust=trust, meter=self.meter)

    def agent_order(self, node: Row[Any]) -> dict[str, Any]:
        """What the node's agent has to know of itself."""
        return agent_order(
            node, self.catalogue.spec(node.provider), vault=self.vault, authority=self.authority, settings=self.settings
        )

    def label_of(self, node_id: str) -> str:
        """What names a node's server at its provider: the installation's prefix and the node's own part."""
        return label_prefix(self.installation()) + node_id.removeprefix("node-")

    def is_remote(self, node: Row[Any]) -> bool:
        """Whether it is another machine, whose agent ends its sessions when it reaches nobody for its dead-man time."""
        spec = self.catalogue.spec(node.provider)
        return node.provider != LOCAL_PROVIDER if spec is None else spec.remote

    def lost_after_s(self, node: Row[Any]) -> float | None:
        """Silence after which no session lives on it; None where sessions outlive every silence."""
        return self.settings.node_lost_s if self.is_remote(node) else None

    def retires(self, node: Row[Any], now: float) -> str | None:
        """Why it takes no new work and goes when it is idle, None when it stays. One that somebody keeps goes only where
        nothing can run on it any more."""
        if not self.is_remote(node):
            return None
        if node.kept:
            return left_behind(node)
        return outdated(node, by_version=self.settings.agent_upgrade) or too_old(
            node, now, life_s=self.settings.node_max_life_s
        )

    def liveness(self, node: Row[Any], now: float) -> Liveness:
        """The bare verdict, see ``verdict``."""
        return self.verdict(node, now).liveness

    def verdict(self, node: Row[Any], now: float) -> Verdict:
        """The verdict about a node; asks its agent and its provider only when the heartbeat is stale, and they matter."""
        stale_s, lost_s = self.settings.heartbeat_stale_s, self.lost_after_s(node)
        age_s = None if node.last_heartbeat_at is None else now - node.last_heartbeat_at
        if is_lost(node):
            return Verdict(Liveness.DEAD, age_s, by=(node.error.get("detail") or {}).get("by"))
        matter = age_s is None or (age_s > stale_s and (lost_s is None or age_s <= lost_s))
        answers, state = self.signs(node, now) if matter else (None, None)
        return node_verdict(
            heartbeat_age_s=age_s, stale_s=stale_s, agent_answers=answers, server_state=state, lost_s=lost_s
        )

    def signs(self, node: Row[Any], now: float) -> tuple[bool | None, str | None]:
        """Whether its agent answers (None: nobody to ask), and its server's state as the provider says it (None: it has
        no such server; ``UNKNOWN``: it can't be asked, or can't say)."""
        answers = self.agent(node, now).is_alive() if node.address else None
        try:
            server = self.providers[node.provider].get(node.server_id) if node.server_id else None
        except (StepError, KeyError):
            return answers, UNKNOWN
        return answers, None if server is None else server.state
