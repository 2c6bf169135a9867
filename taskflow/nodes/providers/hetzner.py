"""Servers of Hetzner Cloud, through its own library.

The server's name is the label, and names are unique in a Hetzner project: a second create with the same label is refused
there, whatever became of the first answer. What belongs to this installation carries its id as a Hetzner label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import hcloud
import requests
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.servers import BoundServer, ServersPageResult

from taskflow.clock import Clock
from taskflow.errors import OutcomeUnknown, StepError
from taskflow.nodes.providers.base import (
    UNKNOWN,
    AccessRefused,
    Leftover,
    NoCapacity,
    NodeOrder,
    OrderInvalid,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    Server,
)
from taskflow.nodes.providers.hetzner_leftovers import HetznerLeftovers

_Answer = TypeVar("_Answer")

API_URL = "https://api.hetzner.cloud/v1"
INSTALLATION_LABEL = "taskflow-installation"
_PER_PAGE = 50
_RATE_WAIT_MAX_S = 60.0

#: Those that are not listed (stopping, deleting, migrating, rebuilding, unknown) are ``UNKNOWN``.
_STATES = {"running": "running", "initializing": "starting", "starting": "starting", "off": "stopped"}
#: What the API's error codes mean. One that is not listed is taken for an outage: it is tried again, and seen.
_ERRORS: dict[str | int, type[StepError]] = {
    "unauthorized": AccessRefused, "forbidden": AccessRefused, "token_readonly": AccessRefused, 401: AccessRefused,
    "protected": AccessRefused,  # somebody forbade the deletion
    "resource_limit_exceeded": QuotaReached, "server_limit_exceeded": QuotaReached,
    "resource_unavailable": NoCapacity, "placement_error": NoCapacity, "unavailable": NoCapacity,
    "invalid_input": OrderInvalid, "json_error": OrderInvalid, "unsupported_error": OrderInvalid,
    "rate_limit_exceeded": RateLimited, 429: RateLimited,
}  # fmt: skip


class HetznerProvider:
    """``token`` is an API token of one project; ``installation`` says what marks ours; ``timeout_s`` bounds one request."""

    creates_once, told_at_once = True, False

    def __init__(
        self, name: str, *, token: str, image: str, installation: Callable[[], str], clock: Clock, timeout_s: float,
        api_url: str = API_URL,
    ) -> None:  # fmt: skip
        self.name = name
        self._image = image
        self._installation = installation
        self._clock = clock
        self._retry_after_s: float | None = None
        self._client = hcloud.Client(token, api_endpoint=api_url, application_name="taskflow", timeout=timeout_s)
        self._tune()
        self._leftovers = HetznerLeftovers(self._client, INSTALLATION_LABEL, installation, self._errors)

    def find_by_label(self, label: str) -> Server | None:
        """The server of this name."""
        found = self._ask(lambda: self._client.servers.get_list(name=label).servers)
        return _server(found[0]) if found else None

    def create(self, order: NodeOrder) -> Server:
        """Buy it. A name that is taken, or no answer, is ``OutcomeUnknown``."""
        answer = self._ask(
            lambda: self._client.servers.create(
                name=order.label,
                server_type=ServerType(name=order.size),
                image=Image(name=self._image),
                location=Location(name=order.location) if order.location else None,
                user_data=order.user_data,
                labels={INSTALLATION_LABEL: self._installation()},
            ),
            buys=True,
        )
        return _server(answer.server)

    def get(self, server_id: str) -> Server | None:
        """Its state now."""
        found = self._get(server_id)
        return None if found is None else _server(found)

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """Ask for its deletion, and look until it is not found any more. Its address goes with it. ``server_id`` may be
        a label."""
        found = self._get(server_id) if server_id.isdigit() else self._by_name(server_id)
        if found is None:
            return True
        if ask:
            with self._errors(gone_is_fine=True):
                found.delete()
        return False

    def inventory(self) -> Iterator[Server]:
        """All servers that carry this installation's id, page by page."""
        page: int | None = 1
        while page is not None:
            answer = self._ask(partial(self._page, page))
            yield from map(_server, answer.servers)
            pagination = answer.meta.pagination if answer.meta else None
            if pagination is None:
                # Not "the last page": what is not known to be complete must not pass for an inventory.
                raise ProviderUnavailable("Hetzner's listing does not say whether it is complete")
            page = pagination.next_page

    def leftovers(self) -> Iterator[Leftover]:
        """Primary and floating addresses and volumes that carry this installation's id."""
        return self._leftovers.all()

    def release(self, leftover: Leftover) -> bool:
        """Delete it, if it is still as it was."""
        return self._leftovers.release(leftover)

    def _page(self, number: int) -> ServersPageResult:
        ours = f"{INSTALLATION_LABEL}={self._installation()}"
        return self._client.servers.get_list(label_selector=ours, page=number, per_page=_PER_PAGE)

    def check(self) -> str:
        """List one server."""
        self._ask(lambda: self._client.servers.get_list(page=1, per_page=1))
        return "the token is accepted"

    # --- inside

    def _get(self, server_id: str) -> BoundServer | None:
        found: list[BoundServer] = []
        with self._errors(gone_is_fine=True):
            found.append(self._client.servers.get_by_id(int(server_id)))
        return found[0] if found else None

    def _by_name(self, label: str) -> BoundServer | None:
        found = self._ask(lambda: self._client.servers.get_list(name=label).servers)
        return found[0] if found else None

    def _ask(self, call: Callable[[], _Answer], *, buys: bool = False) -> _Answer:
        with self._errors(buys=buys):
            return call()
        raise AssertionError  # the context manager returns or raises

    @contextmanager
    def _errors(self, *, buys: bool = False, gone_is_fine: bool = False) -> Iterator[None]:
        try:
            yield
        except hcloud.APIException as error:
            # The API's own word. A page that says 404 is somebody's on the way, who knows nothing of our servers.
            if gone_is_fine and error.code == "not_found":
                return
            raise self._typed(error, buys=buys) from error
        except requests.ConnectTimeout as error:
            raise ProviderUnavailable("Hetzner could not be reached in time") from error
        except requests.RequestException as error:
            kind = OutcomeUnknown if buys else ProviderUnavailable
            raise kind(
                f"the connection to Hetzner failed: {type(error).__name__}", code="provider_unavailable"
            ) from error

    def _typed(self, error: hcloud.APIException, *, buys: bool) -> StepError:
        said = f"Hetzner: {error.message} ({error.code})"
        kind = _ERRORS.get(error.code)
        if buys and error.code == "not_found":
            kind = OrderInvalid  # what it names: its image, size or place
        if kind is RateLimited:
            return RateLimited(said, retry_after_s=self._retry_after_s)
        if kind is not None:
            return kind(said)
        if buys:
            # A name that is taken, or a failure on their side: our server may exist.
            return OutcomeUnknown(said, code="provider_unavailable")
        return ProviderUnavailable(said)

    def _tune(self) -> None:
        """One attempt a call, and the headers of a refusal.

        The library repeats requests by itself, a create whose answer was lost too, sleeping up to a minute in between;
        and its errors don't carry the headers. It has no public switch for either.
        """
        inner = self._client._client
        inner._retry_max_retries = 0
        inner._session.hooks["response"].append(self._note_rate)

    def _note_rate(self, response: requests.Response, *_: Any, **__: Any) -> None:
        if response.status_code != 429:
            return
        try:
            wait_s = float(response.headers["RateLimit-Reset"]) - self._clock.now()
        except (KeyError, ValueError):
            self._retry_after_s = None
            return
        # The header says when the whole hour's allowance is back; one request is allowed again long before.
        self._retry_after_s = min(_RATE_WAIT_MAX_S, max(1.0, wait_s))


def _server(found: BoundServer) -> Server:
    net = found.public_net
    return Server(
        server_id=str(found.id), label=found.name or "", state=_STATES.get(found.status or "", UNKNOWN),
        address=net.ipv4.ip if net is not None and net.ipv4 is not None else None,
        size=found.server_type.name or "" if found.server_type else "",
        location=found.location.name or "" if found.location else "",
        created_at=found.created.timestamp() if found.created else None,
        mark=(found.labels or {}).get(INSTALLATION_LABEL, ""),
    )  # fmt: skip
