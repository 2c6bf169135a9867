"""What each role may, on every route there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.routing import Rule

from tests.web.world import World
from web.auth import Guard, guard_of

RANK = {"viewer": 0, "operator": 1, "admin": 2}
#: Reads that say more than a viewer is to know.
ADMIN_READS = {"/api/tokens", "/api/audit", "/api/settings"}
#: It gives no more than the token that asks for it.
VIEWER_WRITES = {("POST", "/api/sign-in-links")}
#: What only an admin may.
ADMIN_WRITES = {
    ("POST", "/api/nodes"), ("POST", "/api/nodes/<node_id>/destroy"), ("POST", "/api/tokens"),
    ("DELETE", "/api/tokens/<token_id>"), ("POST", "/api/providers/check"),
}  # fmt: skip


def _user_routes(app: Flask) -> Iterator[tuple[str, Rule, Guard]]:
    for rule in app.url_map.iter_rules():
        guard = guard_of(app.view_functions[rule.endpoint])
        assert guard is not None
        if guard.scope == "api":
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, rule, guard


def test_every_read_is_a_viewers_and_every_write_an_operators_at_least(app: Flask) -> None:
    """Who adds a route that asks for less, or a read that asks for more, says so here."""
    found = {"viewer": set(), "operator": set(), "admin": set()}  # type: dict[str, set[tuple[str, str]]]
    for method, rule, guard in _user_routes(app):
        found[guard.role].add((method, rule.rule))
    assert {rule for method, rule in found["admin"] if method == "GET"} == ADMIN_READS
    assert {key for key in found["admin"] if key[0] != "GET"} == ADMIN_WRITES
    assert {key for key in found["viewer"] if key[0] != "GET"} == VIEWER_WRITES
    assert {key for key in found["operator"] if key[0] == "GET"} == set()
    assert len(found["viewer"]) > 10 and len(found["operator"]) > 4


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_role_is_refused_what_needs_more_on_every_route(app: Flask, world: World, role: str) -> None:
    """403 ``role_too_low`` that names the role that is needed, before the body is read; what it may is not refused so."""
    token = world.service.accounts.create_token(owner="ada", name=role, role=role)["token"]
    refused = 0
    for method, rule, guard in _user_routes(app):
        path = rule.rule.replace("<task_id>", "task-1").replace("<node_id>", "node-1").replace("<token_id>", "token-1")
        answer = world.call(method, path, {"nonsense": 1} if method == "POST" else None, token=token)
        error = (answer.get_json() or {}).get("error", {})
        if RANK[role] >= RANK[guard.role]:
            assert error.get("code") != "role_too_low", f"{method} {path}"
            continue
        assert (answer.status_code, error["code"]) == (403, "role_too_low"), f"{method} {path}"
        assert error["detail"] == {"role": role, "needed_role": guard.role} and guard.role in error["message"]
        refused += 1
    assert refused >= len(ADMIN_WRITES)


def test_an_operator_does_the_daily_work(world: World) -> None:
    """Submit, cancel and run again; a viewer looks at all of it."""
    accounts = world.service.accounts
    operator = accounts.create_token(owner="ada", name="o", role="operator")["token"]
    viewer = accounts.create_token(owner="ada", name="v", role="viewer")["token"]
    task = world.call("POST", "/api/tasks", {"repository": "/srv/r", "command": ["true"]}, token=operator).get_json()
    assert world.call("POST", f"/api/tasks/{task['id']}/cancel", {}, token=viewer).status_code == 403
    assert world.call("POST", f"/api/tasks/{task['id']}/cancel", {}, token=operator).status_code == 202
    assert world.call("GET", f"/api/tasks/{task['id']}", token=viewer).get_json()["cancel_requested"] is True
