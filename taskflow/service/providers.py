"""What this installation can buy, for whom, and whether its credentials work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, Row

from taskflow.clock import isoformat
from taskflow.db.providers import (
    accounts,
    ask_check,
    begin_check,
    end_check,
    ensure_accounts,
    is_check_asked,
    server_counts,
    unblock,
)
from taskflow.db.session import Database
from taskflow.errors import NotFound, TaskflowError
from taskflow.logs import mask_text
from taskflow.nodes.audit import audit
from taskflow.nodes.context import StepTools
from taskflow.nodes.purchase import market
from taskflow.service.accounts import ADMIN, Caller

log = structlog.get_logger(__name__)

#: Who asks for a check again within this is given the one that was asked for before.
CHECK_EVERY_S = 10.0
#: A check that is not over after so many of a provider's longest requests is taken for that of a worker that died.
_CHECK_REQUESTS_MAX = 4


class Providers:
    """Listing and checking. ``tools`` knows the catalogue and the providers themselves."""

    def __init__(self, database: Database, tools: StepTools, now: Callable[[], float]) -> None:
        self._database = database
        self._tools = tools
        self._now = now

    def for_sale(self, caller: Caller) -> list[dict[str, Any]]:
        """Every provider with its offers, what the caller has there, why nothing is sold now, if so, and what the last
        check of its credential found."""
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
                    "check": _check_view(known.get(spec.name), in_words=caller.role == ADMIN),
                }
            )  # fmt: skip
        return found

    def check(self, name: str | None = None) -> list[dict[str, Any]]:
        """Ask each provider (or one) whether its credential works: ``{"provider", "ok", "says", "code"}``. Buys nothing.

        One that works is bought from again, whatever was remembered of it. Raises ``NotFound`` for a name that the
        catalogue does not have.
        """
        names = self._names(name)
        ensure_accounts(self._database, names, self._now())
        return [self._checked(one, has_room=True) for one in names]

    def ask(self, caller: Caller, name: str | None = None) -> list[dict[str, Any]]:
        """Let a worker check each provider (or one), as this process may have no credentials: what ``for_sale`` says of
        them, with a ``check`` that is ``pending``. One that was asked for within ``CHECK_EVERY_S``, or that nobody has
        done yet, is not asked for again. Raises ``NotFound`` like ``check``."""
        names = self._names(name)
        ensure_accounts(self._database, names, self._now())

        def work(tx: Connection) -> None:
            for one in names:
                ask_check(tx, one, now=self._now(), every_s=CHECK_EVERY_S)

        self._database.write(work)
        return [one for one in self.for_sale(caller) if one["name"] in names]

    def check_asked(self, name: str) -> bool:
        """Do the check that ``ask`` asked for, if it is still to be done. False while another worker is at it."""
        longest_s = _CHECK_REQUESTS_MAX * self._tools.settings.provider_timeout_s
        if self._database.write(partial(begin_check, name=name, now=self._now(), longest_s=longest_s)):
            # Any owner's admin may ask. That the account was full is the installation's to forget.
            self._checked(name, has_room=False)
            return True
        with self._database.read() as tx:
            return not is_check_asked(tx, name)

    def _names(self, name: str | None) -> list[str]:
        names = list(self._tools.catalogue.names)
        if name is not None and name not in names:
            raise NotFound(self._tools.catalogue.has_no(name), fields={"provider": "unknown"})
        return [name] if name else names

    def _checked(self, name: str, *, has_room: bool) -> dict[str, Any]:
        """Check one, and keep what was found. Whatever fails is an answer too: somebody waits for it."""
        try:
            found = self._probe(name)
        except Exception as error:
            log.error("provider_check_failed", provider=name, error=repr(error))
            says = f"the check itself failed: {type(error).__name__}; the log has more"
            found = {"provider": name, "ok": False, "says": says, "code": "check_failed"}
        now, kept = self._now(), {"ok": found["ok"], "says": mask_text(found["says"]), "code": found["code"]}

        def work(tx: Connection) -> None:
            end_check(tx, name, kept, now)
            if found["ok"]:
                unblock(tx, name, now, has_room=has_room)

        self._database.write(work)
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


def _check_view(row: Row[Any] | None, *, in_words: bool) -> dict[str, Any] | None:
    """The last check of a provider, and whether another one is asked for; None: nobody ever asked.

    What it found ``in_words`` names hosts, paths and how many servers all owners have: that is not for everybody.
    """
    if row is None or (row.check_asked_at is None and row.checked_at is None):
        return None
    found = row.checked or {"ok": None, "says": None, "code": None}
    if not in_words:
        found = {**found, "says": None}
    pending = row.check_asked_at is not None and (row.checked_at is None or row.checked_at < row.check_asked_at)
    return {"pending": pending, "asked_at": isoformat(row.check_asked_at), "at": isoformat(row.checked_at), **found}
