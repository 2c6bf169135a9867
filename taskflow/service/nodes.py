"""The verbs on nodes: list, show, order one by hand, let one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.nodes import (
    create_node_effect,
    destroy_at_once,
    get_node,
    list_nodes,
    lock_owner,
    node_by_ending,
    node_event,
    set_node_run,
)
from taskflow.db.providers import server_counts
from taskflow.db.runs import get_run, insert_run, request_cancel
from taskflow.db.session import Database
from taskflow.engine.alarms import Ringer
from taskflow.engine.outcomes import Refused
from taskflow.errors import Conflict, NotFound, TooMany, UsageError
from taskflow.ids import RunId, new_run_id
from taskflow.nodes.admission import allocate_effect, situation
from taskflow.nodes.catalogue import Offer, ProviderSpec
from taskflow.nodes.context import StepTools
from taskflow.nodes.limits import purchase_guard
from taskflow.nodes.machine import NODE_DESTROYED, again
from taskflow.nodes.ordering import keyed_part, new_node
from taskflow.nodes.purchase import full, guard
from taskflow.nodes.selector import Wish
from taskflow.service.accounts import Caller
from taskflow.service.keys import key_reused
from taskflow.service.pages import decode_cursor, encode_cursor, page_size
from taskflow.service.views import node_view

#: When to ask again for a node that a limit refuses: nodes come and go at a human pace.
RETRY_AFTER_S = 60.0
_OFFERS_SHOWN = 5


class Nodes:
    """See the module."""

    def __init__(self, database: Database, ringer: Ringer, tools: StepTools, now: Callable[[], float]) -> None:
        self._database = database
        self._ringer = ringer
        self._tools = tools
        self._now = now

    # --- looking

    def list(self, caller: Caller, *, with_destroyed: bool = False) -> list[dict[str, Any]]:
        """The caller's nodes, newest first."""
        now = self._now()
        with self._database.read() as tx:
            return [node_view(row, now) for row in list_nodes(tx, caller.owner_id, with_destroyed=with_destroyed)]

    def page(
        self, caller: Caller, *, with_destroyed: bool = False, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """A page of the same, and the next one's cursor (None after the last). Raises ``UsageError`` for a foreign one."""
        now = self._now()
        before = decode_cursor(cursor, str)[0] if cursor else None
        with self._database.read() as tx:
            rows = list_nodes(tx, caller.owner_id, with_destroyed=with_destroyed, limit=page_size(limit), before=before)
        page = rows[: page_size(limit) - 1]
        return [node_view(row, now) for row in page], encode_cursor(page[-1].id) if len(rows) > len(page) else None

    def show(self, caller: Caller, node_id: str) -> dict[str, Any]:
        """One node of the caller. Raises ``NotFound``."""
        with self._database.read() as tx:
            return node_view(_mine(tx, caller, node_id), self._now())

    # --- ordering

    def add(
        self, caller: Caller, spec: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Order a node by hand: (node, made). It stays, idle or not, until it is drained or destroyed.

        ``spec``: ``provider``, and what is wanted of ``size``, ``location``, ``vcpus``, ``memory_mb``; the first offer that
        fits is ordered. A key seen before answers with the node it made. Nothing was written when it raises: ``UsageError``
        (no such offer), ``TooMany`` (a limit), ``Conflict`` (nothing is sold there now; the key was used otherwise).
        """
        provider = self._spec(spec["provider"])
        wish = Wish(
            provider=provider.name, size=spec.get("size"), location=spec.get("location"),
            vcpus=spec.get("vcpus") or 0.0, memory_mb=spec.get("memory_mb") or 0,
        )  # fmt: skip
        _must_exist(provider, wish)
        self._tools.installation()  # the label's part of it is asked for once, and not while a transaction is open

        def work(tx: Connection) -> tuple[str, bool, Sequence[RunId]]:
            now = self._now()
            lock_owner(tx, caller.owner_id)  # two requests with one key, too, come one after the other
            if idempotency_key is not None:
                known = node_by_ending(tx, caller.owner_id, keyed_part(caller.owner_id, idempotency_key))
                if known is not None:
                    return _replayed(known, wish), False, ()
            offer = self._for_sale(tx, caller, provider, wish, now)
            node = new_node(
                self._tools, provider, offer, caller.owner_id, wish, now, ordered_by=caller.actor, key=idempotency_key
            )
            limits = purchase_guard(caller.owner_id, offer.price_per_hour, now)
            try:
                made = create_node_effect(node, guard(provider, caller.owner_id, limits), now=now)(tx)
            except Refused as refused:
                raise _too_many(refused.reason) from refused
            given = allocate_effect(self._tools, caller.owner_id, now)(tx)  # it has room for who waits
            return node.id, True, [*(made or ()), *(given or ())]

        node_id, made, rings = self._database.write(work)
        self._ringer.ring(rings)
        return self.show(caller, node_id), made

    def _spec(self, name: str) -> ProviderSpec:
        found = self._tools.catalogue.spec(name)
        if found is None:
            catalogue = self._tools.catalogue
            raise UsageError(catalogue.has_no(name), fields={"provider": f"one of {', '.join(catalogue.names)}"})
        return found

    def _for_sale(self, tx: Connection, caller: Caller, provider: ProviderSpec, wish: Wish, now: float) -> Offer:
        found = situation(tx, self._tools, caller.owner_id, now)
        offer = next((one for one in found.market.offers if wish.fits(one) is None), None)
        if offer is not None:
            return offer
        why = full(provider, server_counts(tx, provider.name), caller.owner_id)
        if why is not None:
            raise _too_many(why)
        raise Conflict(
            f"{provider.name} sells none now: {found.market.closed.get(provider.name, 'what fits is sold out')}",
            code="not_for_sale", advice="ask again later, or for another one: taskflow providers",
        )  # fmt: skip

    # --- letting go

    def drain(self, caller: Caller, node_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask a node to drain and go: it takes no new workspace, waits for the live ones, then its server is destroyed.

        Repeating it changes nothing. Raises ``NotFound``.
        """
        return self._let_go(caller, node_id, reason, force=False)

    def destroy(
        self, caller: Caller, node_id: str, reason: str | None = None, *, force: bool = False
    ) -> dict[str, Any]:
        """The same; with ``force`` nothing is waited for: the tasks that live on it fail at once (``node_destroyed``)."""
        return self._let_go(caller, node_id, reason, force=force)

    def _let_go(self, caller: Caller, node_id: str, reason: str | None, *, force: bool) -> dict[str, Any]:
        def work(tx: Connection) -> list[RunId]:
            now = self._now()
            node = _mine(tx, caller, node_id)
            run = get_run(tx, node.run_id, lock=True)
            run_id = node.run_id
            asked = False
            if run is not None and run.finished_at is not None and node.destroyed_at is None:
                # Its run gave the node up (status error): a further run tries the destruction again.
                run = again(run, new_run_id(), now)
                insert_run(tx, run)
                set_node_run(tx, node_id, run.id)
                run_id = run.id
            else:
                asked = request_cancel(tx, run_id, actor=caller.actor, reason=reason or "requested", now=now)
            rings = [RunId(run_id)]
            at_once = force and node.destroyed_at is None and (node.error or {}).get("code") != NODE_DESTROYED
            if at_once:
                rings += destroy_at_once(tx, node_id, run_id, _destroyed_by(caller, node_id, reason), now)
            if asked or at_once:
                said = {"at_once": True} if at_once else {}
                node_event(tx, caller.owner_id, node_id, run_id, node.status, now, destroy_requested=True, **said)
            return rings

        self._ringer.ring(self._database.write(work))
        return self.show(caller, node_id)


def _mine(tx: Connection, caller: Caller, node_id: str) -> Row[Any]:
    row = get_node(tx, node_id, owner_id=caller.owner_id)
    if row is None:
        raise NotFound(
            f"no node {node_id}", fields={"node_id": "unknown"}, advice="taskflow nodes shows those that there are"
        )
    return row


def _must_exist(provider: ProviderSpec, wish: Wish) -> None:
    """Raise ``UsageError`` when no offer of the provider could ever be it."""
    reasons = [f"{offer.key}: {wish.fits(offer)}" for offer in provider.offers if wish.fits(offer) is not None]
    if len(reasons) < len(provider.offers):
        return
    asked = {"size": wish.size, "location": wish.location, "vcpus": wish.vcpus, "memory_mb": wish.memory_mb}
    more = f" and {len(reasons) - _OFFERS_SHOWN} more" if len(reasons) > _OFFERS_SHOWN else ""
    raise UsageError(
        f"{provider.name} offers nothing like that: {'; '.join(reasons[:_OFFERS_SHOWN])}{more}",
        fields={name: "no offer fits" for name, value in asked.items() if value} or {"provider": "offers nothing"},
        code="no_such_offer", advice="taskflow providers lists what there is",
    )  # fmt: skip


def _replayed(known: Row[Any], wish: Wish) -> str:
    if known.wish != wish.as_dict():
        raise key_reused()
    return str(known.id)


def _too_many(why: str) -> TooMany:
    return TooMany(
        f"no further node: {why}", code="limit_reached", retry_after_s=RETRY_AFTER_S,
        advice="let one go, or ask whoever runs this installation for more",
    )  # fmt: skip


def _destroyed_by(caller: Caller, node_id: str, reason: str | None) -> dict[str, Any]:
    return {
        "code": NODE_DESTROYED,
        "message": f"node {node_id} was destroyed by {caller.actor}" + (f": {reason}" if reason else ""),
        "advice": "run the task again: taskflow rerun",
    }
