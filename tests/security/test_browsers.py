"""What another site, another session or a forged cookie may do with a browser that is signed in: nothing."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from tests.security.conftest import Picture
from tests.web.browser import Browser
from tests.web.world import SPEC, World
from web.auth import guard_of


@pytest.fixture
def signed_in(world: World) -> Browser:
    """A browser of the first owner's admin."""
    browser = Browser(world)
    browser.sign_in(world.token)
    return browser


def _csrf(answer: Any) -> bool:
    return answer.status_code == 403 and answer.get_json()["error"]["code"] == "csrf"


def test_no_write_is_done_without_the_token_of_a_page_on_any_route(
    app: Flask, world: World, signed_in: Browser, picture: Picture
) -> None:
    """Every route of users and pages, with every method that writes; with the token it gets past that."""
    task = world.submit()
    ids = {"<task_id>": task["id"], "<node_id>": "node-1", "<token_id>": "token-1"}
    csrf, tried = signed_in.csrf_token(), 0
    for rule in app.url_map.iter_rules():
        guard = guard_of(app.view_functions[rule.endpoint])
        if guard is None or guard.scope not in ("api", "page") or rule.endpoint == "sign_in.logout":
            continue
        path = rule.rule
        for name, value in ids.items():
            path = path.replace(name, value)
        for method in sorted((rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}):
            before = picture()
            assert _csrf(signed_in.client.open(path, method=method, json={})), f"{method} {path}"
            assert picture() == before, f"{method} {path} wrote something"
            assert not _csrf(signed_in.client.open(path, method=method, json={}, headers={"X-CSRF-Token": csrf}))
            tried += 1
    assert tried >= 9


def test_the_token_of_another_session_or_a_wrong_one_is_none(world: World, signed_in: Browser) -> None:
    """Also of the same user; and the session's own is good from the header only, where a script sends it."""
    other = Browser(world)
    other.sign_in(world.token)
    own = signed_in.csrf_token()
    assert own != other.csrf_token()
    for wrong in (other.csrf_token(), "wrong", "", own[:-1], own + "x", "ü"):
        headers = {"X-CSRF-Token": wrong.encode().decode("latin-1")}
        assert _csrf(signed_in.client.post("/api/tasks", json=SPEC, headers=headers)), wrong
    as_form = signed_in.client.post("/api/tasks", data={"csrf_token": own})
    assert _csrf(as_form)
    assert signed_in.fetch("POST", "/api/tasks", SPEC).status_code == 202


def test_a_form_carries_it_as_a_field(signed_in: Browser) -> None:
    """Without a script: signing out, for one."""
    assert _csrf(signed_in.post("/logout", {}))
    assert _csrf(signed_in.post("/logout", {"csrf_token": "wrong"}))
    assert signed_in.is_signed_in()
    assert signed_in.post("/logout", {"csrf_token": signed_in.csrf_token()}).status_code == 303


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, False), ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "odd"}, False), ({"Sec-Fetch-Site": "same-origin"}, True), ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "https://evil.example"}, False), ({"Origin": "null"}, False), ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://[localhost"}, False),
        ({"Origin": "http://localhost:81"}, False), ({"Origin": "http://localhost.evil.example"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, False), ({}, True),
    ],
)  # fmt: skip
def test_a_page_of_another_site_writes_nothing_even_with_the_token(
    signed_in: Browser, headers: dict[str, str], allowed: bool
) -> None:
    """What the browser says of where the request comes from counts; an old one that says nothing needs the token."""
    said = {"X-CSRF-Token": signed_in.csrf_token(), **headers}
    answer = signed_in.client.post("/api/tasks", json=SPEC, headers=said)
    assert (answer.status_code == 202) is allowed
    assert _csrf(answer) is not allowed


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "http://[evil.example"}],
)
def test_another_site_signs_nobody_in(world: World, headers: dict[str, str]) -> None:
    """Else it could let somebody work in an account of its own without their knowing."""
    browser = Browser(world)
    said = {"Sec-Fetch-Site": None, **headers}
    answer = browser.client.post("/login", data={"token": world.token}, headers={k: v for k, v in said.items() if v})
    assert answer.status_code == 403 and "Set-Cookie" not in answer.headers


def test_a_bearer_token_needs_none_of_it(world: World, signed_in: Browser) -> None:
    """A program shows its token by itself: nobody else can make it do so. With one, the cookie does not count."""
    cross = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert world.call("POST", "/api/tasks", SPEC, headers=cross).status_code == 202
    bearer = {"Authorization": f"Bearer {world.other_token}"}
    assert signed_in.client.get("/api/whoami", headers=bearer).get_json()["owner"] == "bob"
    assert signed_in.client.get("/api/whoami", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_reads_need_the_cookie_alone(world: World, signed_in: Browser) -> None:
    """And see the owner's things only."""
    task = world.submit()
    foreign = world.call("POST", "/api/tasks", SPEC, token=world.other_token).get_json()
    assert signed_in.client.get(f"/api/tasks/{task['id']}").status_code == 200
    assert signed_in.client.get(f"/api/tasks/{foreign['id']}").status_code == 404
    assert [row["id"] for row in signed_in.client.get("/api/tasks").get_json()["tasks"]] == [task["id"]]


def test_a_cookie_opens_no_route_of_nodes_and_workspaces(world: World, signed_in: Browser) -> None:
    """Those are for the machines."""
    place = world.place(world.submit())
    answer = signed_in.fetch("POST", f"/callbacks/nodes/{place.node_id}/heartbeat", {})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "///evil.example",
        "javascript:alert(1)", "/\t/evil.example", "/\n/evil.example", "evil.example", "", " /account",
        "http:/evil.example", "/" + "x" * 3000, "/x\\..\\evil", "/x\r\nSet-Cookie: a=b",
    ],
)  # fmt: skip
def test_signing_in_leads_to_no_other_site(world: World, wanted: str) -> None:
    """What is no plain path of this host counts as nothing."""
    answer = Browser(world).sign_in(world.token, wanted)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    browser = Browser(world)
    browser.sign_in(world.token)
    again = browser.client.get("/login", query_string={"next": wanted})
    assert again.headers["Location"] == "/"


def test_a_cookie_that_somebody_planted_is_never_taken_over(world: World) -> None:
    """Signing in always makes a new secret, and the former session of that browser is over."""
    browser, attacker = Browser(world), Browser(world)
    attacker.sign_in(world.other_token)
    planted = attacker.secret
    assert planted is not None
    browser.secret = planted
    browser.sign_in(world.token)
    assert browser.secret != planted and browser.fetch("GET", "/api/whoami").get_json()["owner"] == "ada"
    assert not attacker.is_signed_in()
    made_up = Browser(world)
    made_up.secret = "tf_browser_" + "x" * 43
    made_up.sign_in(world.token)
    assert made_up.secret != "tf_browser_" + "x" * 43
