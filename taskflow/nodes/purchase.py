"""What may be bought now, for whom: limits, rests and blocks over the catalogue. First a pure look, then the guard that
counts again under locks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from taskflow.clock import isoformat
from taskflow.db.nodes import Guard, lock_owner
from taskflow.db.providers import lock_account, server_counts
from taskflow.engine.outcomes import Refused
from taskflow.nodes.catalogue import Catalogue, Offer, ProviderSpec

#: (provider, owner) -> (nodes, those of them that are being made)
Counts = Mapping[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True)
class Market:
    """``offers`` that may be bought now, best first; ``closed``: why a provider sells nothing more, by its name."""

    offers: tuple[Offer, ...]
    closed: Mapping[str, str]


def market(
    catalogue: Catalogue,
    accounts: Mapping[str, Any],
    counts: Counts,
    owner_id: str,
    now: float,
    waiting: Callable[[str], Mapping[str, float]] = lambda provider: {},
) -> Market:
    """What this owner may buy. ``accounts``: rows of ``provider_accounts`` by name; ``waiting``: by provider, the best rank
    of each owner who waits, asked only where the owners share a limit."""
    offers: list[Offer] = []
    closed: dict[str, str] = {}
    for spec in catalogue.providers:
        account = accounts.get(spec.name)
        why = _rests(account, now) or full(spec, counts, owner_id)
        if why is None and spec.nodes_max and not _has_turn(spec, counts, owner_id, waiting(spec.name)):
            why = "what is left of it is for owners who have fewer nodes and wait"
        if why is not None:
            closed[spec.name] = why
            continue
        resting = {} if account is None else account.offers_rest
        left = [offer for offer in spec.offers if resting.get(offer.key, 0.0) <= now]
        if not left:
            closed[spec.name] = "everything it offers is sold out"
        offers += left
    return Market(tuple(offers), closed)


def guard(spec: ProviderSpec, owner_id: str, limits: Guard) -> Guard:
    """Counts again, under the locks that make the count hold until the transaction ends. ``limits``: those that were set
    for the owner (``taskflow.nodes.limits.purchase_guard``)."""

    def check(tx: Connection) -> None:
        lock_owner(tx, owner_id)
        if spec.nodes_max:
            lock_account(tx, spec.name)
        why = full(spec, server_counts(tx, spec.name), owner_id)
        if why is not None:
            raise Refused(why)
        limits(tx)

    return check


def _rests(account: Any, now: float) -> str | None:
    if account is None:
        return None
    if account.blocked is not None:
        return f"its credential is refused: {account.blocked['message']}"
    if account.rests_until is not None and account.rests_until > now:
        why = (account.rests_because or {}).get("message", "it sells nothing now")
        return f"nothing is bought there until {isoformat(account.rests_until)}: {why}"
    return None


def _has_turn(spec: ProviderSpec, counts: Counts, owner_id: str, waiting: Mapping[str, float]) -> bool:
    """Whether a place is left for this owner when those who wait are served first who have fewer nodes."""
    left = spec.nodes_max - _everybody(spec, counts)

    def claim(owner: str) -> tuple[float, ...]:
        return counts.get((spec.name, owner), (0, 0))[0], waiting.get(owner, float("inf"))

    ahead = [owner for owner in waiting if owner != owner_id and claim(owner) < claim(owner_id)]
    return len(ahead) < left


def _everybody(spec: ProviderSpec, counts: Counts) -> int:
    return sum(all_ for (name, _), (all_, _) in counts.items() if name == spec.name)


def full(spec: ProviderSpec, counts: Counts, owner_id: str) -> str | None:
    """Which limit of the catalogue allows this owner no further node of the provider."""
    mine, making = counts.get((spec.name, owner_id), (0, 0))
    everybody = _everybody(spec, counts)
    if spec.nodes_max and everybody >= spec.nodes_max:
        return f"{everybody} of {spec.nodes_max} nodes of all owners exist"
    if mine >= spec.owner_nodes_max:
        return f"{mine} of {spec.owner_nodes_max} nodes of yours exist"
    if making >= spec.parallel_max:
        return f"{making} of {spec.parallel_max} nodes are being made already"
    return None
