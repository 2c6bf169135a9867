"""Providers, for the people whose tasks run on their servers."""

from __future__ import annotations

from typing import Any

from web.api import answers
from web.api.routes import Routes
from web.auth import API, caller
from web.door import service

routes = Routes("providers", "Where nodes come from")


@routes.add("GET", "/api/providers", guard=API, answers={200: answers.ProviderListSchema})
def list_providers() -> dict[str, Any]:
    """List providers, what they offer, and why nothing is sold now, if so."""
    return {"providers": service().providers.for_sale(caller())}
