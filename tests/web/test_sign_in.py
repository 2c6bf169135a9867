"""Signing a browser in and out: with a token, with a link, and what ends it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlalchemy import select

from taskflow.db.account_models import BrowserSession, SignInCode
from taskflow.settings import Settings
from tests.web.browser import Browser, fields
from tests.web.world import World
from web import create_app

S = Settings()


@pytest.fixture
def browser(world: World) -> Browser:
    """A browser that nobody is signed in with."""
    return Browser(world)


def _link(world: World) -> str:
    answer = world.call("POST", "/api/sign-in-links", {})
    assert answer.status_code == 201
    path: str = answer.get_json()["path"]
    return path


def _rows(world: World, table: Any) -> list[Any]:
    with world.database.read() as tx:
        return list(tx.execute(select(table.__table__)).all())


# --- with a token


def test_a_token_signs_a_browser_in_and_the_cookie_is_for_the_server_alone(world: World, browser: Browser) -> None:
    """No script reads the cookie and no other site's form sends it; it holds a secret of its own, stored as a hash."""
    answer = browser.sign_in(world.token)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    said = answer.headers["Set-Cookie"]
    assert said.startswith("taskflow_session=tf_browser_")
    assert [part in said for part in ("HttpOnly", "SameSite=Lax", "Path=/", "Secure")] == [True, True, True, False]
    assert f"Max-Age={int(S.browser_session_s)}" in said and "Domain" not in said
    page = browser.get("/account")
    assert page.status_code == 200 and "ada" in page.text
    assert browser.client.get("/api/whoami").get_json()["browser_id"].startswith("browser-")
    (row,) = _rows(world, BrowserSession)
    assert browser.secret is not None
    assert browser.secret not in str(tuple(row)) and world.token not in browser.secret + str(tuple(row))
    assert row.user_agent == "Browser/1.0"


def test_the_cookie_is_for_https_alone_where_the_public_address_is(world: World, settings: Settings) -> None:
    """Behind a proxy that speaks TLS the server itself sees http."""
    safe = create_app(world.service, dataclasses.replace(settings, public_url="https://tasks.example"))
    browser = Browser(dataclasses.replace(world, client=safe.test_client()))
    said = browser.sign_in(world.token).headers["Set-Cookie"]
    assert "; Secure" in said
    # What a browser takes for a cookie of such a name from this host alone: nobody beside it plants a session.
    assert said.startswith("__Host-taskflow_session=tf_browser_") and "; Path=/;" in f"{said};" and "Domain" not in said
    assert browser.is_signed_in()
    planted = browser.client.get_cookie("__Host-taskflow_session")
    assert planted is not None
    other = safe.test_client()
    other.set_cookie("taskflow_session", planted.value)
    assert other.get("/account").status_code == 303
    out = browser.post("/logout", {"csrf_token": browser.csrf_token()})
    assert out.headers["Set-Cookie"].startswith("__Host-taskflow_session=;") and "; Secure" in out.headers["Set-Cookie"]


def test_a_browser_that_names_only_its_origin_signs_in_behind_a_proxy(world: World, settings: Settings) -> None:
    """The proxy may call this server by another name than the browser does: the public address counts too."""
    behind = create_app(world.service, dataclasses.replace(settings, public_url="https://tasks.example"))
    browser = Browser(dataclasses.replace(world, client=behind.test_client()))
    for origin, status in (("https://tasks.example", 303), ("https://other.example", 403), ("null", 403)):
        answer = browser.client.post("/login", data={"token": world.token}, headers={"Origin": origin})
        assert answer.status_code == status, origin


@pytest.mark.parametrize("token", ["tf_wrong", "", " ", "\x00", "ü" * 300])
def test_what_is_no_token_signs_nobody_in(world: World, browser: Browser, token: str) -> None:
    """The page comes again and says so; it does not say the text back."""
    answer = browser.sign_in(token)
    assert answer.status_code in (400, 401)
    assert 'role="alert"' in answer.text and 'aria-invalid="true"' in answer.text
    assert "tf_wrong" not in answer.text and "Set-Cookie" not in answer.headers
    assert not browser.is_signed_in() and _rows(world, BrowserSession) == []


def test_a_token_of_a_node_and_one_that_ended_sign_nobody_in(world: World, browser: Browser) -> None:
    """Only a user's token does, while it is good."""
    place = world.place(world.submit())
    brief = world.service.accounts.create_token(owner="ada", name="brief", expires_s=10)
    lost = world.service.accounts.create_token(owner="ada", name="lost")
    world.service.accounts.revoke_token(lost["id"])
    world.clock.advance(10)
    for token in (place.node_token, place.workspace_token, place.bootstrap_token, brief["token"], lost["token"]):
        assert browser.sign_in(token).status_code == 401
    assert _rows(world, BrowserSession) == []


def test_one_address_may_try_so_often_a_minute(world: World, settings: Settings) -> None:
    """Then 429, also with the right token; another address is not held up by it."""
    strict = create_app(world.service, dataclasses.replace(settings, sign_in_rate=3.0))
    browser = Browser(dataclasses.replace(world, client=strict.test_client()))
    assert [browser.sign_in("tf_wrong").status_code for _ in range(3)] == [401] * 3
    refused = browser.sign_in(world.token)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    assert 'role="alert"' in refused.text
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    answer = browser.client.post("/login", data={"token": world.token}, environ_overrides=elsewhere)
    assert answer.status_code == 303


def test_who_tries_too_often_is_told_no_time_that_is_too_short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes again after it is let in: seconds are counted up."""
    monkeypatch.setattr(world.client.application.extensions["taskflow.sign_in_limit"]._limit, "wait_s", lambda _: 7.2)
    assert Browser(world).sign_in(world.token).headers["Retry-After"] == "8"


def test_behind_proxies_that_are_trusted_the_address_is_the_one_that_they_name(
    world: World, settings: Settings
) -> None:
    """What a browser puts before it is not believed: it would sign in from wherever it likes, and hold up everybody else.
    Where no proxy is named, nothing of the header is."""

    def statuses(proxies: int, *forwarded: str) -> list[int]:
        app = create_app(world.service, dataclasses.replace(settings, sign_in_rate=1.0, trusted_proxies=proxies))
        client, form = app.test_client(), {"token": world.token}
        return [client.post("/login", data=form, headers={"X-Forwarded-For": said}).status_code for said in forwarded]

    assert statuses(1, "192.0.2.1", "192.0.2.2", "192.0.2.9, 192.0.2.1") == [303, 303, 429]
    assert statuses(2, "192.0.2.1, 10.0.0.1", "192.0.2.2, 10.0.0.1", "192.0.2.9, 192.0.2.1, 10.0.0.1") == [
        303,
        303,
        429,
    ]
    assert statuses(0, "192.0.2.1", "192.0.2.2") == [303, 429]
    lines, _ = world.service.audit.page_of_all()
    addresses = [one["data"]["address"] for one in lines if one["action"] == "sign_in"]
    assert addresses == ["127.0.0.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1"]


# --- with a link


def test_a_link_signs_one_browser_in_once(world: World, browser: Browser) -> None:
    """Looking at it changes nothing, as programs do that show a preview; the press of its button uses it up."""
    link = _link(world)
    for _ in range(3):
        page = browser.get(link)
        assert page.status_code == 200 and not browser.is_signed_in()
    form = fields(page)
    assert form["code"] in link
    assert browser.post("/login", form).status_code == 303 and browser.is_signed_in()
    second = Browser(world)
    refused = second.post("/login", form)
    assert refused.status_code == 401 and 'role="alert"' in refused.text and not second.is_signed_in()
    assert form["code"] not in refused.text


def test_a_link_says_whom_it_makes_of_one_while_it_is_good(world: World, browser: Browser) -> None:
    """Else somebody who is sent another's link works there without knowing; who has an old one learns nothing."""
    made = world.service.accounts.create_token(owner="ada", name="<b>ci</b>", role="viewer")
    link = world.call("POST", "/api/sign-in-links", {}, token=made["token"]).get_json()["path"]
    page = " ".join(browser.get(link).text.split())
    said = "as <strong>&lt;b&gt;ci&lt;/b&gt;</strong> (viewer) of <strong>ada</strong>. It works once."
    assert said in page
    late = _link(world)
    browser.post("/login", fields(browser.get(link)))
    texts = [browser.get(link).text, browser.get("/login?code=x").text]
    world.clock.advance(S.sign_in_code_s)
    texts.append(browser.get(late).text)
    lost = _link(world)
    world.service.accounts.revoke_token(world.service.accounts.authenticate(world.token, "api").token_id)
    texts.append(browser.get(lost).text)
    for number, text in enumerate(texts):
        assert "It works once." in text and "strong" not in text and "ada" not in text, number


def test_a_link_gives_what_its_token_may(world: World, browser: Browser) -> None:
    """A viewer's link makes a viewer."""
    viewer = world.service.accounts.create_token(owner="ada", name="v", role="viewer")["token"]
    link = world.call("POST", "/api/sign-in-links", {}, token=viewer).get_json()["path"]
    browser.post("/login", fields(browser.get(link)))
    assert browser.fetch("GET", "/api/whoami").get_json()["role"] == "viewer"
    assert browser.fetch("POST", "/api/tasks", {}).get_json()["error"]["code"] == "role_too_low"


def test_a_link_is_good_for_a_while_and_with_its_token(world: World, browser: Browser) -> None:
    """Too late, or the token is revoked: it signs nobody in."""
    late = fields(browser.get(_link(world)))
    world.clock.advance(S.sign_in_code_s)
    assert browser.post("/login", late).status_code == 401
    made = world.service.accounts.create_token(owner="ada", name="lost")
    link = world.call("POST", "/api/sign-in-links", {}, token=made["token"]).get_json()["path"]
    world.service.accounts.revoke_token(made["id"])
    assert browser.post("/login", fields(browser.get(link))).status_code == 401
    assert not browser.is_signed_in()


def test_the_code_of_a_link_is_stored_as_a_hash(world: World) -> None:
    """Who reads the database signs nobody in."""
    link = _link(world)
    (row,) = _rows(world, SignInCode)
    assert link.partition("code=")[2] not in str(tuple(row))


# --- what ends it


def test_signing_out_ends_the_session_for_good(world: World, browser: Browser) -> None:
    """Also for who copied the cookie."""
    browser.sign_in(world.token)
    copied = browser.secret
    answer = browser.post("/logout", {"csrf_token": browser.csrf_token()})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert browser.secret is None and _rows(world, BrowserSession) == []
    assert copied is not None
    browser.secret = copied
    assert not browser.is_signed_in()


def test_a_browser_that_asks_for_nothing_is_signed_out(world: World, browser: Browser) -> None:
    """Each request, noted to the minute, begins the wait anew."""
    browser.sign_in(world.token)
    for _ in range(3):
        world.clock.advance(S.browser_idle_s - 60)
        assert browser.is_signed_in()
    world.clock.advance(S.browser_idle_s)
    assert not browser.is_signed_in()
    assert browser.client.get("/api/tasks").get_json()["error"]["code"] == "signed_out"


def test_a_browser_is_signed_out_in_the_end_however_busy_it_is(world: World, browser: Browser) -> None:
    """The absolute limit."""
    browser.sign_in(world.token)
    while world.clock.now() < 1_700_000_000.0 + S.browser_session_s - S.browser_idle_s:
        world.clock.advance(S.browser_idle_s / 2)
        assert browser.is_signed_in()
    for _ in range(3):
        world.clock.advance(S.browser_idle_s / 2)
        still = browser.is_signed_in()
    assert not still


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_session_ends_with_its_token(world: World, browser: Browser, end: str) -> None:
    """At the next request; no other browser's does."""
    made = world.service.accounts.create_token(owner="ada", name="t", expires_s=100)
    other = Browser(world)
    other.sign_in(world.token)
    browser.sign_in(made["token"])
    assert browser.is_signed_in()
    if end == "revoked":
        world.call("DELETE", f"/api/tokens/{made['id']}")
    else:
        world.clock.advance(100)
    assert not browser.is_signed_in() and other.is_signed_in()
    assert browser.client.get("/api/tasks").status_code == 401


def test_a_stream_ends_when_its_browser_signs_out(world: World, browser: Browser) -> None:
    """What is asked of a stream's caller while it is open sees it."""
    secret = world.service.browsers.sign_in(world.token, "b").secret
    caller = world.service.browsers.authenticate(secret).caller
    assert world.service.accounts.is_live(caller)
    world.clock.advance(S.browser_session_s)
    assert not world.service.accounts.is_live(caller)
    fresh = world.service.browsers.sign_in(world.token, "b")
    world.service.browsers.sign_out(fresh.secret)
    assert not world.service.accounts.is_live(fresh.caller)


# --- pages


def test_a_page_leads_to_signing_in_and_back(world: World, browser: Browser) -> None:
    """With its query; after a request that would write one begins at the front."""
    answer = browser.get("/account?tab=2&x=%2F")
    assert answer.status_code == 303
    login = browser.get(answer.headers["Location"])
    wanted = fields(login)["next"]
    assert wanted == "/account?tab=2&x=%2F"
    assert browser.sign_in(world.token, wanted).headers["Location"] == wanted
    assert browser.get("/login?next=/account").headers["Location"] == "/account"
    assert Browser(world).post("/logout", {}).headers["Location"] == "/login"


def test_pages_take_no_bearer_token(world: World) -> None:
    """A page is a browser's."""
    assert world.call("GET", "/account").status_code == 303


def test_the_sign_in_page_needs_nothing_of_anybody_else(world: World, browser: Browser) -> None:
    """Its policy allows its own style and forms and nothing more; it holds no script and no style of its own inside."""
    page = browser.get("/login")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "style-src 'self'" in policy and "script-src" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert not any(word in page.text for word in ("<script", "style=", "<style", "onclick", "http://", "https://"))
    assert '<label for="token">' in page.text and page.headers["Cache-Control"] == "no-store"
    style = browser.get("/login/style.css")
    assert style.mimetype == "text/css" and "url(" not in style.text and "@import" not in style.text


def test_what_is_shown_is_shown_as_text(world: World, browser: Browser) -> None:
    """A name or an address that holds markup stays a name."""
    made = world.service.accounts.create_token(owner="ada", name="<b>x</b>")
    browser.sign_in(made["token"])
    assert "<b>" not in browser.get("/account").text
    assert '"><script>' not in Browser(world).get('/login?next=/"><script>&code="><script>').text
