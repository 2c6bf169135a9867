"""Refusals as the providers send them, and what they are to us. ``source`` says where each is documented.

Where a reference has a code and no body for it, the words are those that its users report, or else how it describes
the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow.errors import OutcomeUnknown, StepError
from taskflow.nodes.providers.base import (
    AccessRefused,
    NoCapacity,
    OrderInvalid,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
)

_HETZNER = "https://docs.hetzner.cloud/reference/cloud#errors"
_HETZNER_CREATE = "https://docs.hetzner.cloud/reference/cloud#servers-create-a-server"
_HETZNER_RATE = "https://docs.hetzner.cloud/reference/cloud#rate-limiting"
_OCEAN = "https://docs.digitalocean.com/reference/api/intro/"
_OCEAN_CREATE = "https://docs.digitalocean.com/reference/api/reference/droplets/"
_VULTR = "https://www.vultr.com/api/#section/Introduction"
_VULTR_CREATE = "https://www.vultr.com/api/#tag/instances/operation/create-instance"


@dataclass(frozen=True)
class Documented:
    """``call``: create, destroy or get. ``kind`` is the type of what it raises; None: it is no error of that call."""

    cloud: str
    call: str
    status: int
    body: Mapping[str, Any]
    kind: type[StepError] | None
    source: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        said = self.body.get("error", self.body)
        word = said.get("code") or said.get("id") if isinstance(said, dict) else said
        return f"{self.cloud}-{self.call}-{self.status}-{word}"[:60]


def _hetzner(
    call: str, status: int, code: str, message: str, kind: type[StepError] | None, source: str = _HETZNER,
    details: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
) -> Documented:  # fmt: skip
    body = {"error": {"code": code, "message": message, "details": details}}
    return Documented("hetzner", call, status, body, kind, source, headers or {})


def _ocean(
    call: str, status: int, id_: str, message: str, kind: type[StepError] | None, source: str = _OCEAN, **headers: str
) -> Documented:
    return Documented("digitalocean", call, status, {"id": id_, "message": message}, kind, source, headers)


def _vultr(call: str, status: int, message: str, kind: type[StepError] | None, source: str = _VULTR) -> Documented:
    return Documented("vultr", call, status, {"error": message, "status": status}, kind, source)


REFUSALS = (
    _hetzner("create", 401, "unauthorized", "unable to authenticate", AccessRefused),
    _hetzner("create", 403, "forbidden", "insufficient permissions for this request", AccessRefused),
    _hetzner("create", 403, "token_readonly", "token is only allowed to perform GET requests", AccessRefused),
    _hetzner(
        "create", 422, "invalid_input", "invalid input in field 'broken_field': is too long", OrderInvalid,
        details={"fields": [{"name": "broken_field", "messages": ["is too long"]}]},
    ),
    _hetzner("create", 400, "json_error", "invalid JSON", OrderInvalid),
    _hetzner("create", 404, "not_found", "image not found", OrderInvalid, _HETZNER_CREATE),
    _hetzner("create", 422, "unsupported_error", "the resource does not support this action", OrderInvalid),
    _hetzner(
        "create", 403, "resource_limit_exceeded", "project limit exceeded", QuotaReached,
        details={"limits": [{"name": "project_limit"}]},
    ),
    _hetzner("create", 403, "resource_limit_exceeded", "server limit reached", QuotaReached, _HETZNER_CREATE),
    _hetzner("create", 412, "resource_unavailable", "error during placement", NoCapacity, _HETZNER_CREATE),
    _hetzner("create", 412, "resource_unavailable", "server location disabled", NoCapacity, _HETZNER_CREATE),
    _hetzner("create", 412, "placement_error", "error during placement", NoCapacity, _HETZNER_CREATE),
    _hetzner(
        "create", 409, "uniqueness_error", "server name is already used", OutcomeUnknown, _HETZNER_CREATE,
        details={"fields": [{"name": "name"}]},
    ),
    _hetzner("create", 409, "conflict", "the resource has changed during the request, please retry", OutcomeUnknown),
    _hetzner("create", 500, "server_error", "an error within the API backend", OutcomeUnknown),
    _hetzner("create", 503, "maintenance", "cannot perform operation due to maintenance", OutcomeUnknown),
    _hetzner(
        "create", 429, "rate_limit_exceeded", "limit of 3600 requests per hour reached", RateLimited, _HETZNER_RATE,
        headers={"RateLimit-Limit": "3600", "RateLimit-Remaining": "0", "RateLimit-Reset": "4102444800"},
    ),
    _hetzner("get", 404, "not_found", "server not found", None),
    _hetzner("get", 500, "server_error", "an error within the API backend", ProviderUnavailable),
    _hetzner("destroy", 404, "not_found", "server not found", None),
    _hetzner("destroy", 423, "locked", "server is locked", ProviderUnavailable),
    _hetzner("destroy", 403, "protected", "server deletion is protected", AccessRefused),
    _hetzner("destroy", 503, "maintenance", "cannot perform operation due to maintenance", ProviderUnavailable),
    _ocean("create", 401, "unauthorized", "Unable to authenticate you", AccessRefused),
    _ocean("create", 403, "forbidden", "You do not have access for the attempted action.", AccessRefused),
    _ocean(
        "create", 422, "unprocessable_entity", "creating this/these droplet(s) will exceed your droplet limit",
        QuotaReached, _OCEAN_CREATE,
    ),
    _ocean(
        "create", 422, "unprocessable_entity", "Size is not available in this region.", NoCapacity, _OCEAN_CREATE
    ),
    _ocean(
        "create", 422, "unprocessable_entity", "You specified an invalid image for Droplet creation.", OrderInvalid,
        _OCEAN_CREATE,
    ),
    _ocean(
        "create", 429, "too_many_requests", "API Rate limit exceeded.", RateLimited,
        **{"ratelimit-limit": "5000", "ratelimit-remaining": "0", "ratelimit-reset": "4102444800", "retry-after": "12"},
    ),
    _ocean("create", 500, "server_error", "Unexpected server-side error", OutcomeUnknown),
    _ocean("get", 500, "server_error", "Unexpected server-side error", ProviderUnavailable),
    _ocean("destroy", 404, "not_found", "The resource you were accessing could not be found.", None),
    _ocean("destroy", 500, "server_error", "Unexpected server-side error", ProviderUnavailable),
    _vultr("create", 401, "Invalid API token.", AccessRefused),
    _vultr("create", 401, "Unauthorized IP address: 203.0.113.9", AccessRefused),
    _vultr("create", 400, "Invalid plan chosen.", OrderInvalid, _VULTR_CREATE),
    _vultr(
        "create", 400, "Server add failed: You have reached the maximum monthly fee limit for this account. To deploy "
        "additional services, please request a limit increase.", QuotaReached, _VULTR_CREATE,
    ),
    _vultr("create", 429, "Rate limit exceeded", RateLimited),
    _vultr("create", 503, "Service unavailable", OutcomeUnknown),
    _vultr("get", 503, "Service unavailable", ProviderUnavailable),
    _vultr("destroy", 404, "Invalid instance.", None),
    _vultr("destroy", 503, "Service unavailable", ProviderUnavailable),
)  # fmt: skip
