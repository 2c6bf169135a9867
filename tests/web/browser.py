"""A browser of the tests: it keeps cookies, and says what browsers say about where a request comes from."""

from __future__ import annotations

import html
import re
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web.world import World
from web.sessions import COOKIE

_FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


class Browser:
    """One browser that nobody is signed in with yet."""

    def __init__(self, world: World, user_agent: str = "Browser/1.0") -> None:
        self.client: FlaskClient = world.client.application.test_client()
        self.user_agent = user_agent

    def get(self, path: str, **headers: str) -> TestResponse:
        """Open a page."""
        return self.client.get(path, headers={"User-Agent": self.user_agent, "Sec-Fetch-Site": "none", **headers})

    def post(self, path: str, form: dict[str, str], **headers: str) -> TestResponse:
        """Send a form of a page of the same host."""
        said = {"User-Agent": self.user_agent, "Sec-Fetch-Site": "same-origin", **headers}
        return self.client.post(path, data=form, headers=said)

    def fetch(self, method: str, path: str, json: Any = None, **headers: str) -> TestResponse:
        """What a script of a page does, with the token of the page."""
        said = {"Sec-Fetch-Site": "same-origin", "X-CSRF-Token": self.csrf_token(), **headers}
        return self.client.open(path, method=method, json=json, headers=said)

    def sign_in(self, token: str, wanted: str | None = None) -> TestResponse:
        """Sign in with a token."""
        return self.post("/login", {"token": token, **({"next": wanted} if wanted is not None else {})})

    def csrf_token(self) -> str:
        """What the page of who is signed in holds; '' when nobody is."""
        return fields(self.get("/account")).get("csrf_token", "")

    @property
    def secret(self) -> str | None:
        """What the cookie holds."""
        cookie = self.client.get_cookie(COOKIE)
        return None if cookie is None else cookie.value

    @secret.setter
    def secret(self, value: str) -> None:
        self.client.set_cookie(COOKIE, value)

    def is_signed_in(self) -> bool:
        """Whether a page that needs it opens."""
        return self.get("/account").status_code == 200


def fields(page: TestResponse) -> dict[str, str]:
    """The hidden fields of a page's forms."""
    return {name: html.unescape(value) for name, value in _FIELD.findall(page.text)}
