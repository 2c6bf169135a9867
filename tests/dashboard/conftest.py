"""The world of the web tests, and its pages as a browser asks for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.dashboard.page import Page
from tests.web.browser import Browser
from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

See = Callable[..., Page]


@pytest.fixture
def today(world: World) -> None:  # noqa: F811
    """The world's clock shows the store's time, by which pages say what is late and what happened within a day."""
    world.clock.advance(world.service.now() - world.clock.now())


@pytest.fixture
def see(world: World) -> See:  # noqa: F811
    """Opens a page in a browser that is signed in with ``token`` (default: the first owner's), or where that is None in one
    that is not; its status is 200 unless another one is expected."""
    browsers: dict[str | None, Browser] = {}

    def open_page(path: str, *, status: int = 200, token: str | None = "", part: bool = False) -> Page:
        token = world.token if token == "" else token
        if token not in browsers:
            browsers[token] = Browser(world)
            if token is not None:
                assert browsers[token].sign_in(token).status_code == 303
        headers = {"Accept": "text/html,*/*;q=0.8"} | ({"X-Part": "live"} if part else {})
        answer = browsers[token].get(path, **headers)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "text/html"
        return Page(answer)

    return open_page
