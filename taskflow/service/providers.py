"""What this installation can buy, for whom, and whether its credentials work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from taskflow.clock import isoformat
from taskflow.db.providers import accounts, server_counts, unblock
from taskflow.db.session import Database
from taskflow.errors import NotFound, TaskflowError
from taskflow.nodes.audit import audit
from taskflow.nodes.context import StepTools
from taskflow.nodes.purchase import market
from taskflow.service.accounts import Caller

log = structlog.get_logger(__name__)


class Providers:
    """Listing and checking. ``tools`` knows the catalogue and the providers themselves."""

    def __init__(self, database: Database, tools: StepTools, now: Callable[[], float]) -> None:
        self._database = database
        self._tools = tools
        self._now = now

    def for_sale(self, caller: Caller) -> list[dict[str, Any]]:
        """Every provider with its offers, what the caller has there, and why nothing is sold now, if so."""
        now = self._now()
        with self._database.read() as tx:
            known, counts = accounts(tx), server_counts(tx)
        open_to = market(self._tools.catalogue, known, counts, caller.owner_id, now)
        found = []
        for spec in self._tools.catalogue.providers:
            resting = known[spec.name].offers_rest if spec.name in known else {}
            offers = [
                {
                    "size": offer.size, "location": offer.location, "vcpus": offer.vcpus, "memory_mb": offer.memory_mb,
                    "slots": offer.slots, "price_per_hour": offer.price_per_hour,
                    "sold_out_until": isoformat(resting[offer.key]) if resting.get(offer.key, 0.0) > now else None,
                }
                for offer in spec.offers
            ]  # fmt: skip
            mine, making = counts.get((spec.name, caller.owner_id), (0, 0))
            found.append(
                {
                    "name": spec.name, "kind": spec.kind, "offers": offers, "nodes": mine, "nodes_coming": making,
                    "nodes_max": spec.owner_nodes_max, "closed": open_to.closed.get(spec.name),
                }
            )  # fmt: skip
        return found

    def check(self, name: str | None = None) -> list[dict[str, Any]]:
        """Ask each provider (or one) whether its credential works: ``{"provider", "ok", "says", "code"}``. Buys nothing.

        One that works is bought from again, whatever was remembered of it. Raises ``NotFound`` for a name that the
        catalogue does not have.
        """
        names = [spec.name for spec in self._tools.catalogue.providers]
        if name is not None and name not in names:
            raise NotFound(f"no provider {name}; there are: {', '.join(names)}", fields={"provider": "unknown"})
        found = [self._probe(one) for one in ([name] if name else names)]
        now = self._now()
        for one in found:
            if one["ok"]:
                self._database.write(partial(unblock, name=one["provider"], now=now))
        return found

    def probe(self) -> list[dict[str, Any]]:
        """The same of every provider, changing nothing."""
        return [self._probe(spec.name) for spec in self._tools.catalogue.providers]

    def audit(self) -> dict[str, Any]:
        """Rows against the providers' servers: ``differences`` with what each costs an hour, and ``failed``: providers
        that could not be asked, with the reason."""
        found, failed = audit(self._tools, self._now())
        return {"differences": [dataclasses.asdict(one) for one in found], "failed": failed}

    def _probe(self, name: str) -> dict[str, Any]:
        try:
            return {"provider": name, "ok": True, "says": self._tools.providers[name].check(), "code": None}
        except TaskflowError as error:  # a credential that is missing in this process, too
            log.warning("provider_check_failed", provider=name, code=error.code)
            said = f"{error.message}; {error.advice}" if error.advice else error.message
            return {"provider": name, "ok": False, "says": said, "code": error.code}
