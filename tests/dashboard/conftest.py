"""The world of the web tests, and its pages as a browser asks for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.dashboard.page import Page
from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

See = Callable[..., Page]


@pytest.fixture
def today(world: World) -> None:  # noqa: F811
    """The world's clock shows the store's time, by which pages say what is late and what happened within a day."""
    world.clock.advance(world.service.now() - world.clock.now())


@pytest.fixture
def see(world: World) -> See:  # noqa: F811
    """Opens a page; its status is 200 unless another one is expected."""

    def open_page(path: str, *, status: int = 200, token: str | None = "", part: bool = False) -> Page:
        headers = {"Accept": "text/html,*/*;q=0.8"} | ({"X-Part": "live"} if part else {})
        answer = world.call("GET", path, token=token, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "text/html"
        return Page(answer)

    return open_page
