"""Addresses and volumes in the three HTTP APIs: listed page by page, deleted unless a server has them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from flask import Blueprint, jsonify, request

from tests.support.fake_cloud.ledger import FakeResource, Ledger


def _date(one: FakeResource) -> str:
    return datetime.fromtimestamp(one.created_at, timezone.utc).isoformat()


def _deletes(api: Blueprint, ledger: Ledger, version: str, collection: str) -> None:
    def delete(resource_id: str) -> Any:
        ledger.drop(collection, resource_id)
        return "", 204

    api.add_url_rule(f"/{version}/{collection}/<resource_id>", f"delete_{collection}", delete, methods=["DELETE"])


# --- Hetzner

_PLACE = {"id": 1, "name": "place-1"}
_MONTH = {"net": "7.3", "gross": "8.687"}
_PRICING = {
    "currency": "EUR", "volume": {"price_per_gb_month": {"net": "0.073", "gross": "0.08687"}},
    "primary_ips": [{"type": "ipv4", "prices": [{"location": "place-1", "price_monthly": _MONTH}]}],
    "floating_ips": [{"type": "ipv4", "prices": [{"location": "place-1", "price_monthly": _MONTH}]}],
}  # fmt: skip


def _hetzner_body(one: FakeResource) -> dict[str, Any]:
    has_it = None if one.attached_to is None else int(one.attached_to)
    body: dict[str, Any] = {"id": int(one.id), "name": one.name, "labels": dict(one.labels), "created": _date(one)}
    if one.collection == "primary_ips":
        return {**body, "type": "ipv4", "ip": "203.0.113.9", "location": dict(_PLACE), "assignee_id": has_it,
                "assignee_type": "server", "auto_delete": False}  # fmt: skip
    if one.collection == "floating_ips":
        return {**body, "type": "ipv4", "ip": "203.0.113.9", "home_location": dict(_PLACE), "server": has_it}
    return {**body, "size": one.size, "location": dict(_PLACE), "server": has_it, "status": "available"}


def serve_hetzner(api: Blueprint, ledger: Ledger) -> None:
    """Three collections, filtered by label, and the price list."""

    @api.get("/v1/pricing")
    def pricing() -> Any:
        return jsonify({"pricing": _PRICING})

    @api.get("/v1/<any(primary_ips, floating_ips, volumes):collection>")
    def list_resources(collection: str) -> Any:
        key, _, value = request.args.get("label_selector", "").partition("=")
        found = [one for one in ledger.standing(collection) if not key or one.labels.get(key) == value]
        page, size = request.args.get("page", 1, int), min(request.args.get("per_page", 25, int), 5)
        pagination = {
            "page": page, "per_page": size, "previous_page": None, "last_page": None, "total_entries": len(found),
            "next_page": page + 1 if page * size < len(found) else None,
        }  # fmt: skip
        shown = [_hetzner_body(one) for one in found[(page - 1) * size : page * size]]
        return jsonify({collection: shown, "meta": {"pagination": pagination}})

    @api.get("/v1/<any(primary_ips, floating_ips, volumes):collection>/<resource_id>")
    def one_resource(collection: str, resource_id: str) -> Any:
        one = {"primary_ips": "primary_ip", "floating_ips": "floating_ip", "volumes": "volume"}[collection]
        return jsonify({one: _hetzner_body(ledger.resource(collection, resource_id))})

    for collection in ("primary_ips", "floating_ips", "volumes"):
        _deletes(api, ledger, "v1", collection)


# --- DigitalOcean


def serve_digitalocean(api: Blueprint, ledger: Ledger) -> None:
    """Volumes; its addresses have no names, and nobody here asks for them."""

    @api.get("/v2/volumes")
    def list_volumes() -> Any:
        found, size = ledger.standing("volumes"), 5
        page, pages = request.args.get("page", 1, int), -(-len(found) // size)
        links = {"pages": {"last": f"{request.base_url}?page={pages}&per_page={size}"}} if page < pages else {}
        volumes = [
            {
                "id": one.id, "name": one.name, "size_gigabytes": one.size, "created_at": _date(one),
                "droplet_ids": [] if one.attached_to is None else [int(one.attached_to)],
                "region": {"name": "place-1", "slug": "place-1"},
            }
            for one in found[(page - 1) * size : page * size]
        ]  # fmt: skip
        return jsonify({"volumes": volumes, "links": links, "meta": {"total": len(found)}})

    _deletes(api, ledger, "v2", "volumes")


# --- Vultr


def _page(found: list[FakeResource]) -> tuple[list[FakeResource], dict[str, Any]]:
    begin = request.args.get("cursor", 0, int)
    following = str(begin + 5) if begin + 5 < len(found) else ""
    return found[begin : begin + 5], {"total": len(found), "links": {"next": following, "prev": ""}}


def serve_vultr(api: Blueprint, ledger: Ledger) -> None:
    """Volumes, which say what they cost, and reserved addresses, which don't say since when they are."""

    @api.get("/v2/blocks")
    def list_blocks() -> Any:
        page, meta = _page(ledger.standing("blocks"))
        blocks = [
            {
                "id": one.id, "label": one.name, "size_gb": one.size, "status": "active", "date_created": _date(one),
                "cost": 7.3, "region": "place-1", "attached_to_instance": one.attached_to or "", "mount_id": "",
            }
            for one in page
        ]  # fmt: skip
        return jsonify({"blocks": blocks, "meta": meta})

    @api.get("/v2/reserved-ips")
    def list_addresses() -> Any:
        page, meta = _page(ledger.standing("reserved-ips"))
        addresses = [
            {
                "id": one.id, "label": one.name, "region": "place-1", "ip_type": "v4", "subnet": "203.0.113.9",
                "subnet_size": 32, "instance_id": one.attached_to or "",
            }
            for one in page
        ]  # fmt: skip
        return jsonify({"reserved_ips": addresses, "meta": meta})

    for collection in ("blocks", "reserved-ips"):
        _deletes(api, ledger, "v2", collection)
