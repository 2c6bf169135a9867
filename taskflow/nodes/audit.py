"""Rows against servers: what each side has that the other does not, what else is paid for, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from taskflow.db.nodes import nodes_by_label, providers_of_nodes
from taskflow.errors import TaskflowError
from taskflow.nodes.context import StepTools
from taskflow.nodes.providers.base import Leftover, Server


@dataclass(frozen=True)
class Difference:
    """``kind``: orphan (a server of ours that no node needs), missing (a node whose server the provider does not list),
    stopped (a node in use whose server is off), address and volume (of ours, and no server has it).

    ``server_id`` is the provider's id of what it is about. ``mark``: what says that it is ours. A price that nobody says is
    None.
    """

    kind: str
    provider: str
    label: str
    server_id: str | None
    node_id: str | None
    age_s: float | None
    price_per_hour: float | None
    says: str
    mark: str = ""


def differences(
    provider: str, servers: Iterable[Server], nodes: Mapping[str, Any], prices: Mapping[str, float], *, now: float,
    settle_s: float,
) -> list[Difference]:  # fmt: skip
    """What disagrees. ``nodes``: rows of this provider by label, destroyed ones too; ``prices``: by size.

    A node that was bought less than ``settle_s`` ago may be missing from a listing that lags.
    """
    found: list[Difference] = []
    listed: dict[str, Server] = {}
    for server in servers:
        listed[server.label] = server
        node = nodes.get(server.label)
        age_s = None if server.created_at is None else now - server.created_at
        price = prices.get(server.size)  # None for one that we never sold
        of_it = (provider, server.label, server.server_id, None if node is None else node.id, age_s, price)
        if node is None:
            says = "a server of this installation that no node ever had"
            found.append(Difference("orphan", *of_it, says, server.mark))
        elif node.destroyed_at is not None:
            found.append(Difference("orphan", *of_it, f"its node {node.id} was destroyed", server.mark))
        elif node.server_id is not None and node.server_id != server.server_id:
            says = f"a second server of node {node.id}, which has {node.server_id}"
            found.append(Difference("orphan", *of_it, says, server.mark))
        elif server.state == "stopped" and node.status in ("active", "warm"):
            found.append(Difference("stopped", *of_it, f"node {node.id} is {node.status}, its server is off"))
    for label, node in nodes.items():
        young = node.bought_at is not None and now - node.bought_at < settle_s
        if node.destroyed_at is None and node.server_id is not None and label not in listed and not young:
            age_s = None if node.bought_at is None else now - node.bought_at
            found.append(
                Difference(
                    "missing", provider, label, node.server_id, node.id, age_s, float(node.price_per_hour),
                    f"node {node.id} is {node.status}, the provider does not list its server",
                )
            )  # fmt: skip
    return found


def unattached(
    provider: str, leftovers: Iterable[Leftover], nodes: Mapping[str, Any], *, now: float
) -> list[Difference]:
    """Addresses and volumes that no server has. One that is named like a node that stands may be that node's."""
    return [
        Difference(
            one.kind, provider, one.label, one.id, None, None if one.created_at is None else now - one.created_at,
            one.price_per_hour, f"{'an' if one.kind == 'address' else 'a'} {one.kind} of this installation that no "
            "server has", one.mark,
        )
        for one in leftovers
        if one.attached_to is None and not (one.label in nodes and nodes[one.label].destroyed_at is None)
    ]  # fmt: skip


def audit(tools: StepTools, now: float) -> tuple[list[Difference], dict[str, str]]:
    """The differences of every provider that sells servers, and why one could not be asked (its name -> the reason).

    One at which nodes stand and that is not configured any more can't be asked either (L-52).

    A listing that fails half way gives none of that provider: what was not listed must not pass for missing. The rows are
    read after the listing: a server that is listed had its row before.
    """
    found: list[Difference] = []
    with tools.database.read() as tx:
        unknown = providers_of_nodes(tx) - {spec.name for spec in tools.catalogue.providers}
    failed = dict.fromkeys(sorted(unknown), "nodes stand there, and it is not configured here any more")
    for spec in tools.catalogue.providers:
        if not spec.remote:
            continue
        try:
            provider = tools.providers[spec.name]
            servers, leftovers = list(provider.inventory()), list(provider.leftovers())
        except TaskflowError as error:
            failed[spec.name] = error.message
            continue
        labels = [one.label for one in servers] + [one.label for one in leftovers]
        with tools.database.read() as tx:
            nodes = nodes_by_label(tx, spec.name, labels)
        prices = {offer.size: offer.price_per_hour for offer in spec.offers}
        settle_s = tools.settings.provider_settle_s
        found += differences(spec.name, servers, nodes, prices, now=now, settle_s=settle_s)
        found += unattached(spec.name, leftovers, nodes, now=now)
    return found, failed
