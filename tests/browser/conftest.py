"""A real browser before the real stack. Without a browser these tests are skipped, and fail where CI is set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import Stack, make_repository
from tests.support.waiting import wait_until

#: Nothing of it speaks to anybody but the stack.
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Real processes on a machine that may do other things as well.
TIMEOUT_MS = 60_000
ROOT = Path(__file__).parents[2]
_FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def _chromium() -> str:
    """Where chromium is. Skips or, where CI is set, fails when it is not there."""
    named = os.environ.get("TASKFLOW_TEST_CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    missing = None
    if found is None:
        missing = "chromium is missing: apt-get install chromium, or name one with TASKFLOW_TEST_CHROMIUM"
    else:
        try:
            import playwright.sync_api  # noqa: F401
        except ImportError:
            missing = "playwright is missing: pip install -c constraints.txt -e '.[test]'"
    if missing is None:
        return str(found)
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests."""
    path = _chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def stack(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack that knows the pipelines ``export`` and ``order``; it leaves no process behind."""
    place = tmp_path_factory.mktemp("browser")
    environ = {
        "TASKFLOW_PIPELINES": "examples.export.pipeline:EXPORT,examples.order.pipeline:order", "PYTHONPATH": str(ROOT),
        "EXPORT_DIR": str(place / "exports"), "ORDER_SHOP_DIR": str(place / "shop"),
    }  # fmt: skip
    made = Stack(place / "data", environ).start(timeout_s=240)
    yield made
    made.stop()
    assert made.left_over() == []


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real git repository."""
    return make_repository(tmp_path_factory.mktemp("browser-repository") / "repository")


def waiting_order(stack: Stack, subject: str) -> str:
    """A new run of the pipeline ``order`` that waits for its payment; its id."""
    asked = {"item": "lamp", "amount": 4900, "address": "Main Street 1"}
    run_id = stack.api("POST", "/api/runs", json={"pipeline": "order", "subject": subject, "input": asked})["id"]
    wait_until(
        lambda: stack.api("GET", f"/api/runs/{run_id}")["awaiting"] == "payment",
        "it waits for its payment",
        timeout_s=60,
    )
    return str(run_id)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the test run: what was measured and is no assertion, for it depends on the machine."""
    return request.config.stash.setdefault(_FIGURES, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was measured."""
    found = config.stash.get(_FIGURES, [])
    if found:
        terminalreporter.section("measured")
    for line in found:
        terminalreporter.write_line(line)


@pytest.fixture
def page(browser: Any, stack: Stack) -> Iterator[Any]:
    """A page of somebody who is signed in. At its end: no script failed, and the policy had nothing to refuse."""
    info = stack.info()
    context = browser.new_context(base_url=info["url"], color_scheme="light")
    context.set_default_timeout(TIMEOUT_MS)
    opened = context.new_page()
    opened.goto("/login")
    opened.get_by_label("API token").fill(info["token"])
    opened.get_by_role("button", name="Sign in").click()
    opened.get_by_role("heading", name="Overview").wait_for()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    yield opened
    context.close()
    assert wrong == []
