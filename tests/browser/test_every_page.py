"""Every page, wide and narrow, light and dark: photographed into build/screenshots, read and gone through by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import waiting_order
from tests.browser.looks import missed_by_tab, scrolled_sideways, without_name
from tests.e2e.stack import Stack

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WIDTHS = {1440: 900, 390: 844}
THEMES = ("light", "dark")
#: Name of a page -> its path. What is in braces is made by ``places``.
PAGES = {
    "overview": "/", "tasks": "/tasks", "new-task": "/tasks/new", "task": "/tasks/{task}", "runs": "/runs",
    "run": "/runs/{run}", "new-run": "/runs/new", "usage": "/usage", "nodes": "/nodes", "node": "/nodes/{node}",
    "errors": "/errors", "sweeps": "/sweeps", "settings": "/settings", "account": "/account", "not-found": "/nothing",
}  # fmt: skip


@pytest.fixture(scope="module")
def places(stack: Stack, repository: Path) -> dict[str, str]:
    """What there is to look at: a task that failed, its node, and a run that waits."""
    task = stack.finished(stack.submit(repository, ["sh", "-c", "echo said; exit 7"], title="Ship the lamps"))
    return {"task": task["id"], "node": task["node_id"], "run": waiting_order(stack, "for Ada")}


@pytest.fixture(scope="module", autouse=True)
def _folder() -> Iterator[None]:
    """Pictures of a former run are not mistaken for those of this one."""
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    SCREENSHOTS.mkdir(parents=True)
    yield


@pytest.fixture
def complaints(page: Any) -> list[str]:
    """What the browser's console calls an error."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    return found


def _look(page: Any, name: str) -> list[str]:
    """Photographs the open page in both widths and themes; what is wrong with it."""
    wrong = []
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{theme}.png", full_page=True)
        wrong += [f"{name} at {width} px: {part} is scrolled sideways" for part in scrolled_sideways(page)]
    if page.locator("h1").count() != 1:
        wrong.append(f"{name}: {page.locator('h1').count()} h1")
    return wrong


def test_every_page_is_photographed_and_fits(page: Any, places: dict[str, str], complaints: list[str]) -> None:
    """On a desk and on a phone, light and dark: nothing is scrolled sideways, one h1, nothing in the console."""
    wrong = []
    for name, path in PAGES.items():
        status = page.goto(path.format(**places)).status
        assert status == (404 if name == "not-found" else 200), name
        wrong += _look(page, name)
    page.context.clear_cookies()
    page.goto("/login")
    wrong += _look(page, "login")
    assert wrong == []
    assert [one for one in complaints if "404" not in one] == []
    assert len(list(SCREENSHOTS.glob("*.png"))) == (len(PAGES) + 1) * len(WIDTHS) * len(THEMES)


def test_what_is_wrong_with_a_page_is_found(page: Any) -> None:
    """A button without a name, a link whose focus nobody sees, something that is too wide, a stop that is passed over."""
    page.goto("about:blank")
    page.set_content(
        "<style>a { outline: none }</style><button></button><a href='#'>a link</a><input aria-label='a field'>"
        "<p style='width: 3000px'>wide</p>"
    )
    assert [one.split()[0] for one in without_name(page)] == ["button"]
    assert [one.split(": ")[0] for one in missed_by_tab(page)] == ["no focus to be seen"]
    assert scrolled_sideways(page) == ["HTML"]
    page.evaluate("() => document.querySelector('a').addEventListener('focus', (event) => event.target.blur())")
    assert any(one.startswith("not reached: <a") for one in missed_by_tab(page))


def test_everything_on_every_page_has_a_name_and_is_reached_by_tab(page: Any, places: dict[str, str]) -> None:
    """As a screen reader names it, with a focus that one sees at each stop; on the page one signs in by as well."""
    wrong = {}
    for name, path in PAGES.items():
        page.goto(path.format(**places))
        wrong[name] = without_name(page) + missed_by_tab(page)
    page.context.clear_cookies()
    page.goto("/login")
    wrong["login"] = without_name(page) + missed_by_tab(page)
    assert {name: found for name, found in wrong.items() if found} == {}
