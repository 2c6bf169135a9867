"""A run of one's own pipeline in a browser: started from its form, and answered from its page."""

from __future__ import annotations

from typing import Any

from tests.e2e.stack import Stack

_GIVEN = {"table": "customers", "requested_by": "ada@example.com"}


def _shows(page: Any, text: str, place: str) -> None:
    page.locator(place).filter(has_text=text).first.wait_for()


def _events(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.api("GET", f"/api/runs/{run_id}/events")["events"]
    return found


def test_a_run_is_started_from_a_form_and_signalled_from_its_page(page: Any) -> None:
    """What is wrong is said at its field; the page goes on by itself, and the signal is not offered again for that wait."""
    page.goto("/runs")
    page.get_by_role("link", name="Start").first.click()
    page.get_by_label("requested by").fill("nobody")
    page.get_by_role("button", name="Start", exact=True).click()
    _shows(page, "is needed", "[data-wrong='input.table']")
    _shows(page, "not a valid email", "[data-wrong='input.requested_by']")
    page.get_by_label("table").fill("customers")
    page.get_by_label("requested by").fill("ada@example.com")
    page.get_by_label("About").fill("from the page")
    page.get_by_role("button", name="Start", exact=True).click()
    _shows(page, "export from the page", "h1")
    page.get_by_role("button", name="Send signal").click()
    _shows(page, "approval", "#signal-title")
    page.get_by_label("What comes with it").fill("[1]")
    page.get_by_role("button", name="Send", exact=True).click()
    _shows(page, "must be an object", "[data-wrong=body]")
    page.get_by_label("What comes with it").fill('{"approved": true, "by": "bob@example.com"}')
    page.get_by_role("button", name="Send", exact=True).click()
    page.locator("#signal:not([open])").wait_for(state="attached")
    _shows(page, "keep", "#now")  # it waits for another signal now
    page.get_by_role("button", name="Send signal").click()
    _shows(page, "downloaded", "#signal-title")
    assert page.get_by_label("What comes with it").input_value() == ""
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.textContent") == "Send signal"


def test_a_wait_that_somebody_else_answered_is_not_answered_twice(page: Any, stack: Stack) -> None:
    """What was typed stays in its dialog while the page changes around it, and whoever sends it is told."""
    run = stack.api("POST", "/api/runs", json={"pipeline": "export", "input": _GIVEN})
    page.goto(f"/runs/{run['id']}")
    page.get_by_role("button", name="Send signal").click()
    page.get_by_label("What comes with it").fill('{"approved": false}')
    answer = {"approved": True, "by": "bob@example.com"}
    stack.api("POST", f"/api/runs/{run['id']}/signals/approval", json=answer)
    _shows(page, "keep", "#now")
    page.get_by_role("button", name="Send", exact=True).click()
    _shows(page, "does not wait for this any more", "#signal [data-wrong='']")
    assert page.get_by_label("What comes with it").input_value() == '{"approved": false}'
    recorded = [event for event in _events(stack, run["id"]) if event["kind"] == "signal_recorded"]
    assert len(recorded) == 1
