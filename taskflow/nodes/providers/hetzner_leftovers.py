"""What is paid for at Hetzner besides servers: primary and floating addresses, and volumes.

We never make one. A server is created without naming its addresses, so Hetzner makes them with ``auto_delete`` and without
labels, and they go with it. What carries this installation's label all the same was made or labelled by somebody for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import hcloud

from taskflow.errors import StepError
from taskflow.nodes.providers.base import Leftover, ProviderUnavailable

_PER_PAGE = 50
_HOURS_PER_MONTH = 730.0
#: The collection of the API -> what it is to us.
_KINDS = {"primary_ips": "address", "floating_ips": "address", "volumes": "volume"}

#: Runs what is in it with Hetzner's errors made ours; ``gone_is_fine`` passes over "not found".
Errors = Callable[..., AbstractContextManager[None]]


class HetznerLeftovers:
    """``label``: the name of the label whose value is the installation's id."""

    def __init__(self, client: hcloud.Client, label: str, installation: Callable[[], str], errors: Errors) -> None:
        self._client = client
        self._label = label
        self._installation = installation
        self._errors = errors

    def all(self) -> Iterator[Leftover]:
        """Everything that carries the installation's id, page by page, of each kind."""
        prices: Mapping[str, Any] | None = None
        for collection in _KINDS:
            for found in self._listed(collection):
                if prices is None:  # asked only when there is something to price
                    prices = self._prices()
                yield self._leftover(collection, found, prices)

    def release(self, leftover: Leftover) -> bool:
        """See the port. Hetzner refuses to delete what a server still has, so nothing can be torn from one."""
        collection, _, number = leftover.id.partition("/")
        found: list[Any] = []
        with self._errors(gone_is_fine=True):
            found.append(getattr(self._client, collection).get_by_id(int(number)))
        if not found:
            return True
        again = self._leftover(collection, found[0], {})
        if again.mark != self._installation() or again.label != leftover.label or again.attached_to is not None:
            return False
        with self._errors(gone_is_fine=True):
            found[0].delete()
        return True

    def _listed(self, collection: str) -> Iterator[Any]:
        ours = f"{self._label}={self._installation()}"
        list_page = partial(getattr(self._client, collection).get_list, label_selector=ours, per_page=_PER_PAGE)
        page: int | None = 1
        while page is not None:
            with self._errors():
                answer = list_page(page=page)
            yield from getattr(answer, collection)
            pagination = answer.meta.pagination if answer.meta else None
            if pagination is None:
                raise ProviderUnavailable(f"Hetzner's listing of {collection} does not say whether it is complete")
            page = pagination.next_page

    def _leftover(self, collection: str, found: Any, prices: Mapping[str, Any]) -> Leftover:
        has_it = found.assignee_id if collection == "primary_ips" else found.server and found.server.id
        return Leftover(
            kind=_KINDS[collection], id=f"{collection}/{found.id}", label=found.name or "",
            mark=(found.labels or {}).get(self._label, ""), attached_to=None if has_it is None else str(has_it),
            created_at=found.created.timestamp() if found.created else None,
            price_per_hour=_price(collection, found, prices),
        )  # fmt: skip

    def _prices(self) -> Mapping[str, Any]:
        """The price list, empty when it can't be had: what is ours is known without it."""
        try:
            with self._errors():
                return dict(self._client.request(method="GET", url="/pricing").get("pricing", {}))
        except StepError:
            return {}


def _price(collection: str, found: Any, prices: Mapping[str, Any]) -> float | None:
    """Net, an hour. None where the price list does not have it: a cost that is not known is not nothing."""
    try:
        if collection == "volumes":
            return float(prices["volume"]["price_per_gb_month"]["net"]) * int(found.size) / _HOURS_PER_MONTH
        of_type = next(one for one in prices[collection] if one["type"] == found.type)
        place = found.location if collection == "primary_ips" else found.home_location
        here = next(one for one in of_type["prices"] if place is not None and one["location"] == place.name)
        return float(here["price_monthly"]["net"]) / _HOURS_PER_MONTH
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
