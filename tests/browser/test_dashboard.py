"""The dashboard as a person uses it: submit, watch, cancel, rerun, follow the output, lose the connection."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

from tests.browser.conftest import waiting_order
from tests.e2e.stack import Stack
from tests.support.waiting import wait_until

_NOW = "#now"
#: For each event its time by the store, and when the page that shows it was painted.
_WATCH = """() => {
  window.painted = [];
  let seen = [];
  window.addEventListener("taskflow:event", (event) => seen.push(event.detail));
  window.addEventListener("taskflow:update", () => {
    const shown = seen;
    seen = [];
    requestAnimationFrame(() => {
      for (const event of shown) window.painted.push(Date.now() - Date.parse(event.at));
    });
  });
}"""


def _open_task(page: Any, stack: Stack, repository: Path, command: str, **spec: Any) -> str:
    task_id = stack.submit(repository, ["sh", "-c", command], **spec)
    page.goto(f"/tasks/{task_id}")
    return task_id


def _shows(page: Any, text: str, place: str = _NOW) -> None:
    page.locator(place).filter(has_text=text).first.wait_for()


def test_a_task_is_submitted_and_watched_to_its_end(page: Any, repository: Path) -> None:
    """The page follows it by itself: it is not loaded again between submit and completed."""
    page.goto("/tasks/new")
    page.get_by_role("button", name="Submit").click()
    _shows(page, "is needed", "[data-wrong=repository]")
    _shows(page, "Repository: is needed; Command: is needed", "[data-wrong='']")
    page.locator("#new-repository").fill(str(repository))
    page.locator("#new-command").fill("echo hello from the page > hello.txt; echo said")
    page.locator("#new-title").fill("From the page")
    page.get_by_text("Where it runs").click()
    page.get_by_label("Provider", exact=True).select_option("local")
    page.get_by_label("Memory").fill("0")
    page.get_by_role("button", name="Submit").click()
    _shows(page, "must be greater than or equal to 1", "[data-wrong='resources.memory_mb']")
    _shows(page, "This can't be sent as it is. Memory: must be greater than or equal to 1", "[data-wrong='']")
    page.get_by_label("Memory").fill("16")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/tasks/task-"))
    page.evaluate("() => { window.sameDocument = true; }")
    _shows(page, "completed")
    _shows(page, "said", "[data-log-lines]")
    _shows(page, "hello.txt", "main")
    assert page.evaluate("() => window.sameDocument") is True
    assert page.title() == "From the page - taskflow"
    _shows(page, "provider local, 16 MB of memory", "main")
    assert page.locator(".box.done").count() >= 6


def test_a_task_is_cancelled_with_a_reason_and_run_again(page: Any, stack: Stack, repository: Path) -> None:
    """Buttons come and go with what is allowed; the reason is in the history."""
    task_id = _open_task(page, stack, repository, "test -e done || sleep 600")
    _shows(page, "running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").fill("a better idea")
    page.get_by_role("button", name="Yes").click()
    _shows(page, "cancelled")
    rerun = page.get_by_role("button", name="Rerun")
    rerun.wait_for()
    assert page.get_by_role("button", name="Cancel", exact=True).count() == 0
    said = [event["data"] for event in stack.events(task_id) if event["kind"] == "cancel_requested"]
    assert said == [{"reason": "a better idea"}]
    rerun.click()
    _shows(page, "run 2")
    assert stack.task(task_id)["run_number"] == 2
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Yes").click()
    _shows(page, "cancelled")


def test_output_is_followed_in_colours_and_searched_and_never_becomes_markup(
    page: Any, stack: Stack, repository: Path
) -> None:
    """What a command prints is text with classes, whatever it prints."""
    _open_task(
        page, stack, repository,
        r"""printf '\033[31mred\033[0m <script>window.broken=1</script>\n<img src=x onerror=window.broken=1>\n';"""
        r"""for i in 1 2 3; do echo line $i; done; printf 'done 10%%\rdone 100%%\n'""",
    )  # fmt: skip
    lines = page.locator("[data-log-lines]")
    _shows(page, "done 100%", "[data-log-lines]")
    assert lines.locator("span.fg-red").inner_text() == "red"
    assert "<script>window.broken=1</script>" in lines.inner_text() and "done 10%\n" not in lines.inner_text()
    assert lines.locator("script, img").count() == 0 and page.evaluate("() => window.broken") is None
    page.get_by_role("searchbox").fill("line")
    _shows(page, "1 of 3 lines", "[data-log-count]")
    page.keyboard.press("Enter")
    _shows(page, "2 of 3 lines", "[data-log-count]")
    assert page.evaluate("() => CSS.highlights.get('found').size") == 3
    assert lines.locator(".hit").count() == 3 and lines.locator(".at").inner_text() == "line 2"
    _shows(page, "ended", "[data-log-state]")


def test_a_lost_connection_is_said_and_nothing_is_missing_afterwards(
    page: Any, stack: Stack, repository: Path, tmp_path: Path
) -> None:
    """The output goes on where it was, and the page shows what happened meanwhile, without being loaded again."""
    gate = tmp_path / "go"
    _open_task(page, stack, repository, f"echo before; until test -e {gate}; do sleep 0.1; done; echo after")
    _shows(page, "before", "[data-log-lines]")
    page.evaluate("() => { window.sameDocument = true; }")
    page.route("**/*", lambda route: route.abort())
    former = stack.kill("web")
    _shows(page, "Connection lost", "#connection.shown")
    stack.restarted("web", former)
    gate.touch()
    page.unroute("**/*")
    _shows(page, "completed")
    _shows(page, "after", "[data-log-lines]")
    page.locator("#connection:not(.shown)").wait_for(state="attached")
    text = page.locator("[data-log-lines]").inner_text()
    assert (text.count("before"), text.count("after")) == (1, 1)
    assert page.evaluate("() => window.sameDocument") is True


def test_the_list_is_live_and_cancels_what_is_chosen(page: Any, stack: Stack, repository: Path) -> None:
    """A task appears by itself; choosing survives the updates."""
    page.goto("/tasks?status=queued,delegated,in_progress")
    made = [stack.submit(repository, ["sleep", "600"], title=f"chosen {number}") for number in range(2)]
    for number in range(2):
        page.get_by_role("checkbox", name=f"Choose chosen {number}").check()
    page.get_by_role("button", name="Cancel 2").click()
    page.get_by_role("button", name="Yes").click()
    for task_id in made:
        assert stack.finished(task_id)["status"] == "cancelled"
    page.get_by_text("No task matches").wait_for()


def test_a_step_is_on_the_page_soon_after_its_commit(
    page: Any, stack: Stack, repository: Path, figures: list[str]
) -> None:
    """Measured from the event's time to the paint; said at the end of the run, for what is soon depends on the machine."""
    page.goto("/tasks")
    page.evaluate(_WATCH)
    ids = [stack.submit(repository, ["true"], title=f"measured {number}") for number in range(5)]
    for task_id in ids:
        stack.finished(task_id)
    expected = sum(len(stack.events(task_id)) for task_id in ids)
    wait_until(lambda: len(page.evaluate("() => window.painted")) >= expected, "every event was painted", timeout_s=60)
    found = sorted(page.evaluate("() => window.painted"))
    p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
    figures.append(f"commit to paint, {len(found)} events: p50 {statistics.median(found):.0f} ms, p99 {p99:.0f} ms")


def test_the_keyboard_reaches_everything_and_the_theme_is_kept(page: Any) -> None:
    """The first stop leads past the navigation; a chosen theme outlives the page."""
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.get_by_role("button", name="Switch between dark and light").click()
    page.goto("/tasks")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    page.get_by_role("button", name="Switch between dark and light").click()
    page.emulate_media(color_scheme="dark")
    page.goto("/")
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(16, 19, 27)", "back at the system's theme, it is followed again"


def test_an_open_run_is_followed_to_its_end(page: Any, stack: Stack) -> None:
    """The page says what it waits for, and goes on by itself when that comes."""
    order = waiting_order(stack, "for Grace")
    page.goto(f"/runs/{order}")
    page.evaluate("() => { window.sameDocument = true; }")
    _shows(page, "waiting")
    _shows(page, "payment", "main")
    stack.api("POST", f"/api/runs/{order}/signals/payment", json={"status": "paid", "id": "pay-1"})
    _shows(page, "completed")
    _shows(page, "parcel", "main")
    assert page.get_by_role("button", name="Cancel", exact=True).count() == 0
    assert page.evaluate("() => window.sameDocument") is True


def test_escape_sequences_are_read_however_they_are_cut(page: Any) -> None:
    """Any cut between two pieces of output gives the same lines; what is no colour is left out."""
    page.goto("/")
    found = page.evaluate(
        r"""async () => {
          const version = document.querySelector('script[type=module]').src.split('/static/')[1].split('/')[0];
          const { Ansi } = await import(`/static/${version}/js/ansi.js`);
          const text = 'a\x1b[1;31mb\x1b[0mc\x1b]0;title\x07d\x1b[2Ke\n10%\r20%\r\n' +
            '\x1b[38;5;196mx\x1b[39my\x1b[48;2;0;0;200mz\n';
          const lines = [];
          for (let cut = 0; cut <= text.length; cut++) {
            const ansi = new Ansi();
            lines.push(JSON.stringify([...ansi.feed(text.slice(0, cut)), ...ansi.feed(text.slice(cut))]));
          }
          return [...new Set(lines)];
        }"""
    )
    assert found == [
        '[[{"text":"a","classes":""},{"text":"b","classes":"a-bold fg-red"},{"text":"cde","classes":""}],'
        '[{"text":"20%","classes":""}],'
        '[{"text":"x","classes":"fg-bright-red"},{"text":"y","classes":""},{"text":"z","classes":"bg-blue"}]]'
    ]
