"""What a node's agent is told about itself: by its provider, or when it asks for it at its server's first boot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from taskflow.certificates import AgentAuthority
from taskflow.nodes.catalogue import ProviderSpec
from taskflow.settings import Settings
from taskflow.vault import Vault


def agent_order(
    node: Row[Any], spec: ProviderSpec | None, *, vault: Vault, authority: AgentAuthority, settings: Settings
) -> dict[str, Any]:
    """The order, as ``protocol.NodeOrderSchema``, with the same tokens and key each time. ``spec``: its provider's."""
    order: dict[str, Any] = {
        "node_id": node.id,
        "slots": node.slots,
        "callback_token": vault.derive_token("node", node.id),
        "agent_token": vault.derive_token("agent", node.id),
        "heartbeat_interval_s": settings.heartbeat_interval_s,
        "signature_age_s": settings.signature_age_s,
    }
    if spec is not None and spec.remote:
        order |= _of_another_machine(node.id, spec, authority, settings)
    return order


def _of_another_machine(
    node_id: str, spec: ProviderSpec, authority: AgentAuthority, settings: Settings
) -> Mapping[str, Any]:
    tls = authority.tls_of(node_id)
    return {
        "listen_host": "0.0.0.0",  # noqa: S104 - the control plane has to reach it; each request is signed
        "listen_port": settings.agent_port,
        "tls": {"certificate": tls.certificate, "private_key": tls.private_key},
        "dead_man_s": settings.dead_man_s,
        "power_off": spec.needs_user_data,
        "isolate": spec.options.get("isolate", True),
        "container_image": spec.options.get("container_image"),
    }
