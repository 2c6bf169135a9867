"""The three HTTP APIs, as far as a server's life needs them. Paths, fields and errors are those of the real ones."""

from __future__ import annotations

import base64
import math
import socket
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request

from tests.support.fake_cloud import leftovers
from tests.support.fake_cloud.ledger import AnswerLost, Answers, FakeServer, Ledger, ProxyAnswers, Refusal

Body = tuple[dict[str, Any], int, dict[str, str]]


def application(ledger: Ledger) -> Flask:
    """All three under one roof; their paths don't meet."""
    app = Flask("fake_cloud")
    for make in (_hetzner, _digitalocean, _vultr):
        app.register_blueprint(make(ledger))
    return app


def _blueprint(name: str, ledger: Ledger, refused: Callable[[Refusal], Body]) -> Blueprint:
    api = Blueprint(name, __name__)

    @api.before_request
    def enter() -> None:
        if ledger.faults.slow_s:
            time.sleep(ledger.faults.slow_s)  # the one thing a slow answer can't do without
        ledger.enter(request.headers.get("Authorization", "").removeprefix("Bearer "), request.method)

    @api.after_request
    def leave(response: Response) -> Response:
        if request.method == "POST":
            response.call_on_close(ledger.on_answered)
        return response

    @api.errorhandler(Refusal)
    def on_refusal(refusal: Refusal) -> Any:
        body, status, headers = refused(refusal)
        return body, status, headers

    @api.errorhandler(AnswerLost)
    def on_lost(_: AnswerLost) -> Response:
        request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return Response(status=500)

    @api.errorhandler(ProxyAnswers)
    def on_proxy(answer: ProxyAnswers) -> Response:
        return Response("<html><h1>Not this time</h1></html>", status=answer.args[0], content_type="text/html")

    @api.errorhandler(Answers)
    def on_answers(answer: Answers) -> Any:
        status, body, headers = answer.args
        return dict(body), status, dict(headers)

    return api


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat()


# --- Hetzner: names are unique, listings are filtered, each page says what comes next

_HETZNER: dict[str, tuple[int, str]] = {
    "auth": (401, "unauthorized"), "rate": (429, "rate_limit_exceeded"), "capacity": (412, "resource_unavailable"),
    "quota": (403, "resource_limit_exceeded"), "invalid": (422, "invalid_input"), "taken": (409, "uniqueness_error"),
    "outage": (503, "unavailable_now"), "missing": (404, "not_found"), "attached": (422, "must_be_unassigned"),
}  # fmt: skip


def _hetzner_refused(refusal: Refusal) -> Body:
    status, code = _HETZNER[refusal.kind]
    headers = {"RateLimit-Reset": str(math.ceil(refusal.reset_at))} if refusal.kind == "rate" else {}
    return {"error": {"code": code, "message": f"it is {refusal.kind}", "details": {}}}, status, headers


def _hetzner_server(one: FakeServer) -> dict[str, Any]:
    ip = {"id": int(one.server_id), "ip": "203.0.113.7", "blocked": False, "dns_ptr": ""}
    return {
        "id": int(one.server_id), "name": one.name, "status": one.status, "created": _date(one.created_at),
        "labels": dict(one.labels), "public_net": {"ipv4": ip, "ipv6": None, "floating_ips": [], "firewalls": []},
        "server_type": {"id": 1, "name": one.size}, "location": {"id": 1, "name": one.location},
    }  # fmt: skip


def _hetzner(ledger: Ledger) -> Blueprint:
    api = _blueprint("hetzner", ledger, _hetzner_refused)

    @api.post("/v1/servers")
    def create() -> Any:
        body = request.get_json()
        made = ledger.create(
            body["name"], body["server_type"], body["location"], body.get("user_data") or "", body.get("labels") or {}
        )
        action = {"id": 1, "command": "create_server", "status": "running", "progress": 0, "resources": []}
        answer: dict[str, Any] = {"server": _hetzner_server(made), "action": action}
        answer |= {"next_actions": [], "root_password": None}
        return jsonify(answer), 201

    @api.get("/v1/servers")
    def listing() -> Any:
        name, selector = request.args.get("name"), request.args.get("label_selector", "")
        key, _, value = selector.partition("=")
        found = [
            one for one in ledger.listed()
            if (name is None or one.name == name) and (not selector or one.labels.get(key) == value)
        ]  # fmt: skip
        page, size = request.args.get("page", 1, int), request.args.get("per_page", 25, int)
        more = page * size < len(found)
        pagination = {
            "page": page, "per_page": size, "previous_page": None, "next_page": page + 1 if more else None,
            "last_page": None, "total_entries": len(found),
        }  # fmt: skip
        servers = [_hetzner_server(one) for one in found[(page - 1) * size : page * size]]
        return jsonify({"servers": servers, "meta": {"pagination": pagination}})

    @api.get("/v1/servers/<server_id>")
    def one_server(server_id: str) -> Any:
        found = ledger.get(server_id)
        if found is None:
            raise Refusal("missing")
        return jsonify({"server": _hetzner_server(found)})

    @api.delete("/v1/servers/<server_id>")
    def delete(server_id: str) -> Any:
        if not ledger.delete(server_id):
            raise Refusal("missing")
        action = {"id": 2, "command": "delete_server", "status": "running", "progress": 0, "resources": []}
        return jsonify({"action": action})

    leftovers.serve_hetzner(api, ledger)
    return api


# --- DigitalOcean: numbered pages, errors told apart by their words

_DIGITALOCEAN: dict[str, tuple[int, str]] = {
    "auth": (401, "Unable to authenticate you"), "rate": (429, "API rate limit exceeded"),
    "capacity": (422, "Size is not available in this region."),
    "quota": (422, "creating this/these droplet(s) will exceed your droplet limit"),
    "invalid": (422, "You specified an invalid size for Droplet creation."), "outage": (503, "Server was unable"),
    "missing": (404, "The resource you were accessing could not be found."),
    "attached": (422, "This volume is attached and cannot be deleted."),
}  # fmt: skip


def _digitalocean_refused(refusal: Refusal) -> Body:
    status, message = _DIGITALOCEAN[refusal.kind]
    headers = {"retry-after": str(math.ceil(refusal.again_s))} if refusal.kind == "rate" else {}
    return {"id": "refused", "message": message}, status, headers


def _droplet(one: FakeServer) -> dict[str, Any]:
    address = {"ip_address": "203.0.113.7", "type": "public", "netmask": "255.255.255.0", "gateway": "203.0.113.1"}
    return {
        "id": int(one.server_id), "name": one.name, "status": {"running": "active"}.get(one.status, one.status),
        "created_at": _date(one.created_at), "networks": {"v4": [address], "v6": []},
        "region": {"name": one.location, "slug": one.location}, "size_slug": one.size,
    }  # fmt: skip


def _digitalocean(ledger: Ledger) -> Blueprint:
    api = _blueprint("digitalocean", ledger, _digitalocean_refused)

    @api.post("/v2/droplets")
    def create() -> Any:
        body = request.get_json()
        made = ledger.create(body["name"], body["size"], body["region"], body.get("user_data") or "", {})
        return jsonify({"droplet": _droplet(made)}), 202

    @api.get("/v2/droplets")
    def listing() -> Any:
        found, size = ledger.listed(), min(request.args.get("per_page", 25, int), 5)
        page, pages = request.args.get("page", 1, int), -(-len(found) // size)
        links = {"pages": {"last": f"{request.base_url}?page={pages}&per_page={size}"}} if page < pages else {}
        droplets = [_droplet(one) for one in found[(page - 1) * size : page * size]]
        return jsonify({"droplets": droplets, "links": links, "meta": {"total": len(found)}})

    @api.delete("/v2/droplets/<server_id>")
    def delete(server_id: str) -> Any:
        if not ledger.delete(server_id):
            raise Refusal("missing")
        return "", 204

    leftovers.serve_digitalocean(api, ledger)
    return api


# --- Vultr: pages by cursor, user data in base64

_VULTR: dict[str, tuple[int, str]] = {
    "auth": (401, "Invalid API token."), "rate": (429, "Rate limit hit"),
    "capacity": (400, "Plan is not available in the selected region."),
    "quota": (400, "You have reached the maximum monthly fee limit for this account."),
    "invalid": (400, "Invalid plan chosen."), "outage": (503, "Service unavailable"),
    "missing": (404, "Invalid instance."), "attached": (400, "Block storage volume is attached to an instance."),
}  # fmt: skip


def _vultr_refused(refusal: Refusal) -> Body:
    status, message = _VULTR[refusal.kind]
    return {"error": message, "status": status}, status, {}


def _instance(one: FakeServer) -> dict[str, Any]:
    # One that is switched off stays active: only its power tells.
    power = "stopped" if one.status == "stopped" else "running"
    status = {"running": "active", "stopped": "active"}.get(one.status, one.status)
    return {
        "id": one.server_id, "label": one.name, "main_ip": "203.0.113.7", "v6_main_ip": "", "internal_ip": "",
        "plan": one.size, "region": one.location, "os_id": 1, "os": "", "ram": 1, "disk": 1, "vcpu_count": 1,
        "date_created": _date(one.created_at), "status": status, "power_status": power,
        "server_status": "ok", "allowed_bandwidth": 1, "netmask_v4": "", "gateway_v4": "",
        "v6_network": "", "v6_network_size": 0, "app_id": 0, "image_id": "", "features": [], "tag": "",
        "firewall_group_id": "", "tags": [],
    }  # fmt: skip


def _vultr(ledger: Ledger) -> Blueprint:
    api = _blueprint("vultr", ledger, _vultr_refused)

    @api.post("/v2/instances")
    def create() -> Any:
        body = request.get_json()
        user_data = base64.b64decode(body.get("user_data") or "").decode()
        made = ledger.create(body["label"], body["plan"], body["region"], user_data, {})
        return jsonify({"instance": _instance(made)}), 202

    @api.get("/v2/instances")
    def listing() -> Any:
        found, begin = ledger.listed(), request.args.get("cursor", 0, int)
        following = str(begin + 5) if begin + 5 < len(found) else ""
        meta = {"total": len(found), "links": {"next": following, "prev": ""}}
        return jsonify({"instances": [_instance(one) for one in found[begin : begin + 5]], "meta": meta})

    @api.delete("/v2/instances/<server_id>")
    def delete(server_id: str) -> Any:
        if not ledger.delete(server_id):
            raise Refusal("missing")
        return "", 204

    leftovers.serve_vultr(api, ledger)
    return api
