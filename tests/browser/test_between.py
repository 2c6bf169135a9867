"""What comes between a person and a page: updates, refusals, a session that ends, a second press."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from tests.browser.looks import scrolled_sideways
from tests.e2e.stack import Stack
from tests.support.waiting import wait_until

_REFRESH = """async () => {
  const version = document.querySelector('script[type=module]').src.split('/static/')[1].split('/')[0];
  await (await import(`/static/${version}/js/live.js`)).refresh();
}"""


def _open_gated(
    page: Any, stack: Stack, repository: Path, gate: Path, *, before: str = "echo begun", code: int = 0
) -> str:
    """A task's page; the command of the task ends with ``code`` once ``gate`` is there."""
    command = f"{before}; until test -e {gate}; do sleep 0.1; done; exit {code}"
    task_id = stack.submit(repository, ["sh", "-c", command])
    page.goto(f"/tasks/{task_id}")
    page.locator("#now").filter(has_text="running").wait_for()
    return task_id


def test_a_yes_is_for_what_was_asked_whatever_the_page_shows_by_then(
    page: Any, stack: Stack, repository: Path, tmp_path: Path
) -> None:
    """The task fails while it is asked whether to cancel it: the button of that place is now Rerun, which nobody wanted."""
    task_id = _open_gated(page, stack, repository, tmp_path / "go", code=3)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_label("Reason").fill("too late")
    (tmp_path / "go").touch()
    page.locator("button", has_text="Rerun").wait_for(state="attached")
    page.get_by_label("Reason").press("Enter")
    page.locator("#toast.shown.bad").filter(has_text="failed").wait_for()
    assert stack.finished(task_id)["run_number"] == 1


def test_the_output_stays_where_it_is_read_when_its_task_ends(
    page: Any, stack: Stack, repository: Path, tmp_path: Path
) -> None:
    """Keys take it out of following as a wheel does, and cards that come and go above it move neither it nor the focus."""
    lines = page.locator("[data-log-lines]")
    _open_gated(page, stack, repository, tmp_path / "go", before="seq 1 500; echo last")
    lines.filter(has_text="last").wait_for()
    lines.focus()
    page.keyboard.press("PageUp")
    follows = page.get_by_role("checkbox", name="Follow")
    wait_until(lambda: not follows.is_checked(), "it follows no more")
    wait_until(lambda: page.evaluate(_SETTLED), "scrolling has ended")
    top = lines.evaluate("lines => lines.scrollTop")
    assert top > 1000
    (tmp_path / "go").touch()
    page.locator("#now").filter(has_text="completed").wait_for()
    page.get_by_role("heading", name="What it waits for").wait_for(state="detached")
    page.locator("[data-log-state]").filter(has_text="ended").wait_for()
    assert lines.evaluate("lines => [lines.scrollTop, document.activeElement === lines]") == [top, True]


#: Whether the output stood still for two frames.
_SETTLED = """() => new Promise((resolve) => {
  const lines = document.querySelector("[data-log-lines]");
  const top = lines.scrollTop;
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(lines.scrollTop === top)));
})"""


def test_a_refusal_that_passes_leaves_the_page_as_it_is_and_is_asked_again(
    page: Any, stack: Stack, repository: Path
) -> None:
    """Also on a page that only events bring up to date: none may come for hours."""
    page.goto("/tasks")
    error = "<html><head><title>429</title></head><body><main id=main><h1>This did not work</h1></main></body></html>"
    page.route("**/tasks", lambda route: route.fulfill(status=429, content_type="text/html", body=error))
    made = stack.submit(repository, ["true"], title="while nothing is answered")
    page.locator("#connection.shown").filter(has_text="Connection lost").wait_for()
    assert page.locator("h1").inner_text() == "Tasks"
    stack.finished(made)
    page.unroute("**/tasks")
    page.get_by_role("link", name="while nothing is answered").first.wait_for()
    page.locator("#connection:not(.shown)").wait_for(state="attached")


def test_who_signs_in_again_finds_the_page_alive(page: Any, stack: Stack, repository: Path, tmp_path: Path) -> None:
    """It says that it is signed out, and when one comes back to it from signing in elsewhere it goes on."""
    _open_gated(page, stack, repository, tmp_path / "go")
    page.context.clear_cookies()
    page.locator("#connection.shown").get_by_role("link", name="Sign in again").wait_for()
    _sign_in(page, stack)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.locator("#connection:not(.shown)").wait_for(state="attached")
    (tmp_path / "go").touch()
    page.locator("#now").filter(has_text="completed").wait_for()


def test_a_wrong_token_is_said_and_signs_nobody_in(page: Any) -> None:
    """Beside its field, as a screen reader reads it out; the pages behind stay closed."""
    page.context.clear_cookies()
    page.goto("/tasks")
    page.get_by_label("API token").fill("tf_wrong")
    page.get_by_role("button", name="Sign in").click()
    said = page.get_by_role("alert")
    said.wait_for()
    field = page.get_by_label("API token")
    assert said.inner_text() and said.get_attribute("id") in str(field.get_attribute("aria-describedby")).split()
    assert field.get_attribute("aria-invalid") == "true" and field.input_value() == ""
    assert page.goto("/tasks").url.split("?")[0].endswith("/login")


def test_a_session_that_expired_is_said_on_the_open_page_and_ended_for_good(page: Any, stack: Stack) -> None:
    """Its cookie is still there and good for nothing; after signing in one is where one was."""
    page.goto("/runs")
    with sqlite3.connect(stack.data_dir / "taskflow.db", timeout=30) as database:
        database.execute("UPDATE browser_sessions SET expires_at = 1.0")
    database.close()
    page.evaluate(_REFRESH)
    page.locator("#connection.shown").get_by_role("link", name="Sign in again").wait_for()
    assert page.context.cookies()
    page.goto("/runs")
    page.get_by_label("API token").fill(stack.info()["token"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Runs", exact=True).wait_for()


def _sign_in(page: Any, stack: Stack) -> None:
    """In another tab of the same browser."""
    other = page.context.new_page()
    other.goto("/login")
    other.get_by_label("API token").fill(stack.info()["token"])
    other.get_by_role("button", name="Sign in").click()
    other.get_by_role("heading", name="Overview").wait_for()
    other.close()


def test_what_was_typed_outlives_a_session(page: Any, stack: Stack, repository: Path) -> None:
    """The form says that one is signed out; signed in again in another tab, it is sent as it stands."""
    page.goto("/tasks/new")
    page.locator("#new-repository").fill(str(repository))
    page.locator("#new-command").fill("true")
    page.context.clear_cookies()
    page.get_by_role("button", name="Submit").click()
    page.locator("#connection.shown").filter(has_text="signed out").wait_for()
    _sign_in(page, stack)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/tasks/task-*")


def test_a_line_that_is_no_pair_is_not_sent_as_one(page: Any, repository: Path) -> None:
    """Nor is a number that is none left out silently: both are said beside their fields, and nothing is sent."""
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.goto("/tasks/new")
    page.locator("#new-repository").fill(str(repository))
    page.locator("#new-command").fill("true")
    page.get_by_text("More", exact=True).click()
    page.locator("#new-secrets").fill("A=1\nB")
    page.locator("#new-env").fill("A=1\nA=2")
    page.locator("#new-priority").press_sequentially("1e")
    page.get_by_role("button", name="Submit").click()
    page.locator("[data-wrong=secrets]").filter(has_text="line 2 is not written as name=value").wait_for()
    said = [page.locator(f"[data-wrong={name}]").inner_text() for name in ("env", "priority")]
    assert said == ["A is there twice", "must be a number"] and sent == []


def test_a_second_press_asks_nothing_more_though_the_page_was_drawn_anew(
    page: Any, stack: Stack, repository: Path
) -> None:
    """Until the first is answered."""
    task_id = stack.submit(repository, ["false"])
    stack.finished(task_id)
    page.goto(f"/tasks/{task_id}")
    held: list[Any] = []
    page.route("**/rerun", lambda route: held.append(route))
    page.get_by_role("button", name="Rerun").click()
    wait_until(lambda: page.evaluate("() => true") and held, "the first press is on its way")
    page.evaluate(_REFRESH)
    button = page.get_by_role("button", name="Rerun")
    assert button.get_attribute("aria-disabled") == "true"
    button.click(force=True)
    held[0].continue_()
    page.locator("#now").filter(has_text="run 2").wait_for()
    assert len(held) == 1


def test_what_was_refused_of_many_stays_chosen_and_says_why(page: Any, stack: Stack, repository: Path) -> None:
    """The rest was done."""
    made = [stack.submit(repository, ["true"], title=f"half {number}", start=False) for number in range(3)]
    refusal = json.dumps({"error": {"code": "conflict", "message": "not this one"}})
    page.goto("/tasks?status=draft,cancelled")
    page.route(
        f"**/{made[1]}/cancel", lambda route: route.fulfill(status=409, content_type="application/json", body=refusal)
    )
    for number in range(3):
        page.get_by_role("checkbox", name=f"Choose half {number}").check()
    page.get_by_role("button", name="Cancel 3").click()
    page.get_by_role("button", name="Yes").click()
    page.locator("#toast.shown").filter(has_text="2 of 3 tasks. 1 refused: not this one").wait_for()
    chosen = page.locator("[data-pick]:checked")
    assert chosen.evaluate_all("boxes => boxes.map((box) => box.value)") == [made[1]]
    assert page.locator("[data-pick-all]").evaluate("box => [box.checked, box.indeterminate]") == [False, True]
    assert [stack.finished(made[at])["status"] for at in (0, 2)] == ["cancelled", "cancelled"]


def test_without_output_there_is_a_line_that_says_so_and_nothing_to_search(
    page: Any, stack: Stack, repository: Path, tmp_path: Path
) -> None:
    """Search, Follow and Save come with the first line."""
    gate = tmp_path / "go"
    _open_gated(page, stack, repository, gate, before=f"until test -e {gate}-said; do sleep 0.1; done; echo said")
    page.locator("[data-log-state]").filter(has_text="none yet").wait_for()
    assert page.locator("[data-log-some]:visible").count() == 0
    Path(f"{gate}-said").touch()
    page.locator("[data-log-lines]").filter(has_text="said").wait_for()
    assert page.locator("[data-log-some]:visible").count() == 2
    gate.touch()
    page.locator("[data-log-state]").filter(has_text="ended").wait_for()
    silent = stack.submit(repository, ["true"])
    stack.finished(silent)
    page.goto(f"/tasks/{silent}")
    page.locator("[data-log-state]").filter(has_text="none: it ended without any").wait_for()
    assert page.locator("[data-log-some]:visible").count() == 0


def test_output_that_was_deleted_is_not_called_none(page: Any, stack: Stack, repository: Path) -> None:
    """A command that said something is not shown as a silent one once its output is too old to be kept."""
    task_id = stack.submit(repository, ["echo", "said"])
    stack.finished(task_id)
    with sqlite3.connect(stack.data_dir / "taskflow.db", timeout=30) as database:
        mine = "SELECT id FROM agent_sessions WHERE task_id = ?"
        database.execute(f"DELETE FROM log_chunks WHERE session_id IN ({mine})", (task_id,))
    database.close()
    page.goto(f"/tasks/{task_id}")
    page.locator("[data-log-state]").filter(has_text="was deleted for its age").wait_for()


def test_a_time_that_changes_is_told_anew_and_one_that_stays_is_left_alone(page: Any) -> None:
    """Its text, which may be selected, and the exact time in its title."""
    page.goto("/")
    found = page.evaluate(
        """async () => {
          const version = document.querySelector('script[type=module]').src.split('/static/')[1].split('/')[0];
          const { morph } = await import(`/static/${version}/js/morph.js`);
          const { tellTimes } = await import(`/static/${version}/js/times.js`);
          const made = (at) => {
            const place = document.createElement("p");
            place.innerHTML = `<time datetime="${at}" data-ago>as the server says</time>`;
            return place;
          };
          const shown = made("2026-01-01T00:00:00Z");
          document.body.append(shown);
          tellTimes();
          const [text, title] = [shown.firstChild.firstChild, shown.firstChild.title];
          morph(shown, made("2026-01-01T00:00:00Z"));
          const isSame = shown.firstChild.firstChild === text && !text.data.includes("server");
          morph(shown, made("2026-02-01T00:00:00Z"));
          tellTimes();
          return [isSame, shown.firstChild.title !== title];
        }"""
    )
    assert found == [True, True]


def test_what_comes_up_by_itself_is_said_in_places_that_are_always_there(page: Any) -> None:
    """A screen reader reads out what changes in a place, and not a place that appears."""
    page.goto("/tasks")
    for name in ("#connection", "#toast"):
        place = page.locator(name)
        assert place.get_attribute("aria-live") == "polite" and place.inner_text() == ""
        shown = place.evaluate("place => [getComputedStyle(place).display, getComputedStyle(place).visibility]")
        assert shown == ["block", "visible"], name
    assert page.evaluate("() => document.documentElement.scrollHeight - document.body.scrollHeight") <= 0


def test_a_filter_is_chosen_by_keyboard_without_leaving_at_the_first_arrow(page: Any) -> None:
    """Each arrow is a change, and none is the choice yet; with a pointer the choice is made at once."""
    page.goto("/tasks")
    page.get_by_label("Status").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    chosen = page.get_by_label("Status").input_value()
    assert (chosen, page.url.split("/")[-1]) == ("failed", "tasks")
    page.get_by_role("button", name="Filter").press("Enter")
    page.wait_for_url("**/tasks?status=failed*")
    page.get_by_label("Status").select_option("completed")
    page.wait_for_url("**/tasks?status=completed*")


def test_no_page_is_wider_than_a_phone(page: Any, stack: Stack, repository: Path) -> None:
    """Neither the page nor a table in it is scrolled sideways; all of the menu is in sight, large enough for a finger."""
    task_id = stack.submit(repository, ["sh", "-c", "exit 7"], title="unbroken" * 20, labels={"l": "v" * 60})
    task = stack.finished(task_id)
    page.set_viewport_size({"width": 360, "height": 740})
    paths = ["/", "/tasks", "/tasks/new", "/runs", "/runs/new", "/runs/new?as=json", "/nodes", "/errors", "/usage"]
    paths += ["/sweeps", "/settings", "/nothing"]
    for path in [*paths, f"/tasks/{task_id}", f"/nodes/{task['node_id']}", "/account"]:
        page.goto(path)
        for summary in page.locator("summary").all():
            summary.click()
        assert scrolled_sideways(page) == [], path
        for entry in page.locator(".top nav a").all():
            box = entry.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["height"] >= 40, (path, entry.inner_text())
