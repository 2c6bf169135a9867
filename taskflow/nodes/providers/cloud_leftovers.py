"""What is paid for besides servers at the clouds that Apache Libcloud drives; we never make any of it.

What is ours is told by its name, which begins with the installation's prefix. So DigitalOcean's reserved addresses, which
have no name, are never taken for ours. Another cloud than these two is not looked at: how it says what is attached is not
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from libcloud.compute.base import NodeDriver

from taskflow.nodes.providers.base import Leftover

_HOURS_PER_MONTH = 730.0


def list_leftovers(cloud: str, driver: NodeDriver, prefix: str) -> list[Leftover]:
    """All of ours. Raises what the driver raises: its listings are whole or fail."""
    listing = _LISTINGS.get(cloud)
    return [] if listing is None else list(listing(driver, prefix))


def release_leftover(driver: Any, leftover: Leftover) -> None:
    """Delete it. Raises what the driver raises."""
    collection, _, found = leftover.id.partition("/")
    driver.connection.request(f"/v2/{collection}/{found}", method="DELETE")


def _digitalocean(driver: Any, prefix: str) -> Iterator[Leftover]:
    for volume in driver.list_volumes():
        if volume.name.startswith(prefix):
            has_it = volume.extra["droplet_ids"]
            yield Leftover(
                "volume", f"volumes/{volume.id}", volume.name, prefix, attached_to=str(has_it[0]) if has_it else None,
                created_at=_epoch(volume.extra["created_at"]),
            )  # fmt: skip


def _vultr(driver: Any, prefix: str) -> Iterator[Leftover]:
    for volume in driver.list_volumes():
        if volume.name.startswith(prefix):
            yield Leftover(
                "volume", f"blocks/{volume.id}", volume.name, prefix,
                attached_to=volume.extra["attached_to_instance"] or None,
                created_at=_epoch(volume.extra["date_created"]), price_per_hour=_hourly(volume.extra),
            )  # fmt: skip
    # The driver has no call for them; its paging is what makes the listing whole.
    for address in driver._paginated_request("/v2/reserved-ips", "reserved_ips"):
        if address["label"].startswith(prefix):
            yield Leftover(
                "address", f"reserved-ips/{address['id']}", address["label"], prefix,
                attached_to=address["instance_id"] or None,
            )  # fmt: skip


def _epoch(date: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(date).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def _hourly(extra: Mapping[str, Any]) -> float | None:
    cost = extra.get("cost")
    return None if cost is None else float(cost) / _HOURS_PER_MONTH


_LISTINGS: Mapping[str, Callable[[Any, str], Iterator[Leftover]]] = {"digitalocean": _digitalocean, "vultr": _vultr}
