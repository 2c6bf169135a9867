"""Who may call what."""

from __future__ import annotations

import pytest
from flask import Flask
from werkzeug.routing import Rule

from tests.web.world import SPEC, Place, World
from web.auth import Guard, guard_of

SCOPES = {"public", "api", "page", "node", "workspace", "bootstrap", "metrics", "run"}

#: What a route needs before it looks for the thing.
BODIES = {"/api/runs/<run_id>/callbacks": {"signal": "paid"}}


def _routes(app: Flask) -> list[tuple[Rule, str, Guard]]:
    found = []
    for rule in app.url_map.iter_rules():
        guard = guard_of(app.view_functions[rule.endpoint])
        assert guard is not None, f"{rule} declares no guard"
        found += [(rule, method, guard) for method in sorted(rule.methods or ())]
    return found


def _path(rule: Rule, place: Place, task_id: str) -> str:
    ids = {
        "task_id": task_id, "node_id": place.node_id, "workspace_id": place.workspace_id,
        "session_id": place.session_id, "stage": "booted", "token_id": "token-of-somebody",
        "run_id": "run-of-somebody", "name": "paid",
    }  # fmt: skip
    path = rule.rule
    for name in rule.arguments:
        path = path.replace(f"<{name}>", ids[name])
    return path


@pytest.fixture
def placed(world: World) -> tuple[str, Place]:
    """A task that has a node, a workspace and a session."""
    task = world.submit()
    return task["id"], world.place(task)


def test_every_route_declares_who_may_call_it(app: Flask) -> None:
    """No rule of the map is without an auth class, and each is one that exists."""
    routes = _routes(app)
    assert {guard.scope for _, _, guard in routes} == SCOPES
    public = {rule.rule for rule, _, guard in routes if guard.scope == "public"}
    pages = {"/login", "/login/style.css", "/static/<version>/<path:name>"}
    assert public == {"/healthz", "/readyz", "/api/openapi.json", "/agent.pyz"} | pages


def test_a_route_without_a_guard_is_never_reached(app: Flask, world: World) -> None:
    """Who forgets to declare a guard gets a closed route, not an open one."""
    reached: list[str] = []

    def view() -> str:
        reached.append("view")
        return "open"

    app.add_url_rule("/forgotten", "forgotten", view)
    assert world.call("GET", "/forgotten").status_code == 500
    assert reached == []


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "Basic \xff", "wrong"]
)
def test_no_valid_token_is_401_on_every_route(
    app: Flask, world: World, placed: tuple[str, Place], authorization: str | None
) -> None:
    """Without a token, or with something that is none, every closed route answers 401 and says how to send one, and a page
    leads to where one signs in."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for rule, method, guard in _routes(app):
        if guard.scope == "public":
            continue
        answer = world.call(method, _path(rule, placed[1], placed[0]), token=None, headers=headers)
        if guard.scope == "page":
            assert answer.status_code == 303 and answer.headers["Location"].startswith("/login"), f"{method} {rule}"
            continue
        assert answer.status_code == 401, f"{method} {rule}"
        # Who was given a password shows it when the answer says that one is taken.
        asked = 'Bearer, Basic realm="taskflow"' if guard.scope == "run" else "Bearer"
        assert answer.headers["WWW-Authenticate"] == asked, f"{method} {rule}"


def test_a_token_of_another_scope_is_403_on_every_route(app: Flask, world: World, placed: tuple[str, Place]) -> None:
    """A token opens the routes of its own scope only. (No token opens a page: see test_no_valid_token.)"""
    task_id, place = placed
    tokens = {
        "api": world.token, "node": place.node_token, "workspace": place.workspace_token,
        "bootstrap": place.bootstrap_token,
    }  # fmt: skip
    for rule, method, guard in _routes(app):
        for scope, token in tokens.items():
            if guard.scope in ("public", "page", scope):
                continue
            answer = world.call(method, _path(rule, place, task_id), token=token)
            refused = 401 if guard.scope in ("metrics", "run") else 403  # no token of ours is looked up there
            assert answer.status_code == refused, f"{method} {rule} with a {scope} token"


def test_a_token_of_another_node_or_workspace_is_403(app: Flask, world: World, placed: tuple[str, Place]) -> None:
    """A callback token is for exactly one node or workspace, also among those of one owner, whatever the body says."""
    task_id, place = placed
    foreign = world.place(world.submit())
    tokens = {
        "node": foreign.node_token, "workspace": foreign.workspace_token, "bootstrap": foreign.bootstrap_token,
    }  # fmt: skip
    tried = 0
    for rule, method, guard in _routes(app):
        if guard.callback:
            answer = world.call(method, _path(rule, place, task_id), json={}, token=tokens[guard.scope])
            assert answer.status_code == 403, f"{method} {rule}"
            tried += 1
    assert tried >= 5


def test_who_may_not_call_is_told_before_the_body_is_read(world: World) -> None:
    """A refused caller learns nothing about what a route takes."""
    assert world.call("POST", "/api/tasks", {"nonsense": 1}, token=None).status_code == 401
    assert world.call("POST", "/api/tasks", data=b"x" * 2_000_000, token=None).status_code == 401


def test_revoked_and_expired_tokens_are_401(world: World) -> None:
    """A token ends when it is revoked or its time is over."""
    accounts = world.service.accounts
    revoked = accounts.create_token(owner="ada", name="old")
    brief = accounts.create_token(owner="ada", name="brief", expires_s=60)
    assert world.call("GET", "/api/tasks", token=revoked["token"]).status_code == 200
    accounts.revoke_token(revoked["id"])
    assert world.call("GET", "/api/tasks", token=revoked["token"]).status_code == 401
    assert world.call("GET", "/api/tasks", token=brief["token"]).status_code == 200
    world.clock.advance(61)
    assert world.call("GET", "/api/tasks", token=brief["token"]).status_code == 401


@pytest.mark.parametrize("word", ["bearer", "BEARER", "Bearer"])
def test_the_word_bearer_may_be_written_as_one_likes(world: World, word: str) -> None:
    """The scheme of the header has no case."""
    headers = {"Authorization": f"{word} {world.token}"}
    assert world.call("GET", "/api/tasks", token=None, headers=headers).status_code == 200


def test_public_routes_need_no_token(world: World) -> None:
    """Health and the document are for everybody."""
    assert world.call("GET", "/healthz", token=None).get_json() == {"alive": True}
    assert world.call("GET", "/api/openapi.json", token=None).status_code == 200


def test_another_owners_task_and_node_do_not_exist(app: Flask, world: World, placed: tuple[str, Place]) -> None:
    """On every route another owner's id answers as an unknown one does, and nothing happens to it."""
    task_id, place = placed
    before = world.call("GET", f"/api/tasks/{task_id}").get_json()
    tried = 0
    for rule, method, guard in _routes(app):
        if guard.scope != "api" or not rule.arguments or method in ("OPTIONS", "HEAD"):
            continue
        body: dict[str, str] | None = BODIES.get(rule.rule, {}) if method == "POST" else None
        answer = world.call(method, _path(rule, place, task_id), body, token=world.other_token)
        assert answer.status_code == 404, f"{method} {rule}"
        assert answer.get_json()["error"]["code"] == "not_found"
        tried += 1
    assert tried >= 8
    assert world.call("GET", "/api/tasks", token=world.other_token).get_json()["tasks"] == []
    assert world.call("GET", "/api/nodes", token=world.other_token).get_json()["nodes"] == []
    assert world.call("GET", f"/api/tasks/{task_id}").get_json() == before


def test_an_idempotency_key_is_its_owners(world: World) -> None:
    """Two owners may use the same key; neither gets the other's task."""
    headers = {"Idempotency-Key": "k"}
    mine = world.call("POST", "/api/tasks", SPEC, headers=headers)
    theirs = world.call("POST", "/api/tasks", SPEC, headers=headers, token=world.other_token)
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.get_json()["id"] != theirs.get_json()["id"]
    assert "Idempotent-Replayed" not in theirs.headers
