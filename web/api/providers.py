"""Providers, for the people whose tasks run on their servers."""

from __future__ import annotations

from typing import Any

from web import audit
from web.api import answers, schemas
from web.api.keys import SOON, idempotency_key
from web.api.routes import Routes
from web.auth import API, API_ADMIN, caller
from web.door import service

routes = Routes("providers", "Where nodes come from")


@routes.add("GET", "/api/providers", guard=API, answers={200: answers.ProviderListSchema})
def list_providers() -> dict[str, Any]:
    """List providers, what they offer, and why nothing is sold now, if so."""
    return {"providers": service().providers.for_sale(caller())}


@routes.add(
    "POST",
    "/api/providers/check",
    guard=API_ADMIN,
    body=schemas.ProviderCheckSpecSchema,
    answers={202: answers.ProviderListSchema},
    refusals={404: "no such provider"},
    parameters=[SOON],
)
def check_providers(body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Ask whether the credentials of providers work, buying nothing.

    A worker does it, as this process has no credentials: `check` of `GET /api/providers` is `pending` until it did, and
    then says what was found. A provider that works is bought from again, also if its credential was refused before. Who
    asks again within ten seconds is given the check that was asked for then.
    """
    idempotency_key()
    found = service().providers.ask(caller(), body["provider"])
    audit.note(data={"providers": [one["name"] for one in found]})
    return {"providers": found}, 202
