"""Every page: what it shows, to whom, and that nothing anybody wrote can do anything there."""

from __future__ import annotations

import configparser
import fnmatch
from pathlib import Path
from urllib.parse import urlencode

import pytest

from taskflow.db.models import Task
from taskflow.errors import InfrastructureError
from tests.dashboard.conftest import HOSTILE, See
from tests.web.world import World
from web.dashboard import frame

pytestmark = pytest.mark.usefixtures("today")

PAGES = ("/", "/tasks", "/tasks/new", "/runs", "/runs/new", "/nodes", "/errors", "/usage", "/sweeps", "/settings")
#: What a script sends something for.
_WRITES = {"data-post", "data-bulk-do", "data-pick", "data-submit", "data-opens"}


def _paths(busy: dict[str, str]) -> list[str]:
    tasks = [f"/tasks/{busy[name]}" for name in ("failed", "done", "running")]
    return [
        *PAGES,
        *tasks,
        f"/nodes/{busy['node']}",
        f"/runs/{busy['run']}",
        "/tasks?status=failed&project=shop",
        "/nodes?destroyed=1",
    ]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers_when_there_is_nothing_yet(see: See, path: str) -> None:
    """With its title, one heading, and labels; and it says that there is nothing."""
    page = see(path)
    assert page.problems() == []
    assert page.h1 and page.title.endswith(" - taskflow")


def test_every_page_shows_hostile_text_as_text(see: See, busy: dict[str, str]) -> None:
    """Titles, labels, messages, reasons, branches: nothing becomes an element, an attribute or a template."""
    for path in _paths(busy):
        page = see(path)
        assert page.problems() == [], path
        assert "alert(1)</script>" not in page.html and "<img src=x" not in page.html, path
        assert page.html.count("<script") == 2, path
        assert "& 49" not in page.text, path
    shown = {"failed": f"/tasks/{busy['failed']}", "node": f"/nodes/{busy['node']}", "run": f"/runs/{busy['run']}"}
    for name, path in shown.items():
        assert HOSTILE in see(path).text, name


def test_every_page_forbids_what_is_not_a_file_of_ours(see: See, busy: dict[str, str]) -> None:
    """Also pages of errors; the API keeps the policy that allows nothing."""
    answers = [see(path).answer for path in _paths(busy)]
    answers.append(see("/nothing", status=404).answer)
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy == frame.POLICY and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


def test_nothing_of_another_owner_is_shown(world: World, see: See, busy: dict[str, str]) -> None:
    """Their task and node do not exist, and no list has them."""
    for path in (f"/tasks/{busy['running']}", f"/nodes/{busy['node']}", f"/runs/{busy['run']}"):
        page = see(path, status=404, token=world.other_token)
        assert page.h1 == "There is nothing here"
    mine = world.submit()
    their_run = world.row(Task, busy["failed"]).run_id
    see(f"/tasks/{mine['id']}?run={their_run}", status=404)
    for path in PAGES:
        page = see(path, token=world.other_token)
        assert not [name for name, found in busy.items() if found in page.html], path
        assert "running <script>" not in page.text


def test_who_only_looks_is_offered_nothing_else(world: World, see: See, busy: dict[str, str]) -> None:
    """A viewer sees no button that writes, and no page of who runs the installation."""
    viewer = world.service.accounts.create_token(owner="ada", name="viewer", role="viewer")["token"]
    paths = _paths(busy)
    for path in ("/tasks/new", "/runs/new", "/sweeps", "/settings"):
        assert see(path, status=403, token=viewer).h1 == "This is not for you"
        paths.remove(path)
    for path in paths:
        page = see(path, token=viewer)
        assert page.all("a", href="/tasks/new") == [] and page.all("a", href="/runs/new") == [], path
        assert not [tag for tag, found in page.tags if _WRITES & found.keys()], path


def test_an_operator_sees_everything_but_the_settings(world: World, see: See) -> None:
    """They are of the whole installation, not of an owner."""
    operator = world.service.accounts.create_token(owner="ada", name="operator", role="operator")["token"]
    assert see("/sweeps", token=operator).all("a", href="/settings") == []
    assert see("/tasks", token=operator).all("a", href="/tasks/new")
    assert see("/settings", status=403, token=operator).h1 == "This is not for you"


def test_a_wrong_address_is_a_page_for_people_and_json_for_programs(world: World, see: See) -> None:
    """The request's id is on it, and nothing of what failed inside."""
    page = see("/tasks?cursor=!!", status=400)
    assert page.answer.headers["X-Request-Id"] in page.text
    assert see("/tasks?status=nonsense", status=400).problems() == []
    answer = world.call("GET", "/api/tasks/none", headers={"Accept": "text/html"})
    assert answer.mimetype == "application/json" and answer.status_code == 404
    assert world.call("GET", "/nothing").mimetype == "application/json"


def test_nobody_sees_a_page_without_signing_in(see: See) -> None:
    """And is led to where that is done."""
    for path in PAGES:
        page = see(path, status=303, token=None)
        assert page.answer.headers["Location"] == "/login?" + urlencode({"next": path}, safe="/")


def test_a_database_that_is_away_is_a_page_too(world: World, see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that the service is not usable now, without the driver's words."""

    def fail(*_args: object, **_kwargs: object) -> None:
        raise InfrastructureError("connection to db.internal refused", detail={"store": "database"})

    monkeypatch.setattr(world.service.tasks, "list", fail)
    page = see("/tasks", status=503)
    assert page.h1 == "Not now" and "db.internal" not in page.html


def test_the_token_against_forged_requests_is_on_every_page(
    see: See, busy: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where scripts read it, and in the form that signs out."""
    monkeypatch.setattr(frame, "csrf_token", lambda: "token-of-this-session")
    for path in _paths(busy):
        page = see(path)
        assert page.all("meta", name="csrf-token")[0]["content"] == "token-of-this-session"
        assert page.all("input", name="csrf_token")[0]["value"] == "token-of-this-session"


def test_a_form_that_its_script_did_not_reach_is_not_sent(see: See) -> None:
    """A browser would put all its fields, secrets too, into an address. The script is what lets its buttons work."""
    page = see("/tasks/new")
    (form,) = [found for found in page.all("form") if "data-submit" in found]
    buttons = page.all("button", name="start")
    assert form["method"] == "post" and len(buttons) == 2 and all("disabled" in button for button in buttons)


def test_a_part_is_the_page_without_what_surrounds_it(see: See, busy: dict[str, str]) -> None:
    """So an update is small, and no cache takes one for the other."""
    for path in _paths(busy):
        whole, part = see(path), see(path, part=True)
        assert part.h1 == whole.h1 and part.title == whole.title
        assert part.all("header") == [] and len(part.html) < len(whole.html)
        assert part.answer.headers["Vary"] == "X-Part"


def test_files_are_kept_for_ever_under_an_address_of_their_content(world: World, see: See) -> None:
    """Every file that pages name exists; nothing else of the disk can be read."""
    page = see("/")
    named = [found["src"] for found in page.all("script")] + [found["href"] for found in page.all("link")]
    for address in named:
        answer = world.call("GET", address, token=None)
        assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"], address
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" not in world.call("GET", "/static/old/app.css", token=None).headers["Cache-Control"]
    version = named[0].split("/")[2]
    for wrong in ("../frame.py", "..%2fframe.py", "%2e%2e/frame.py", "js/../../frame.py", "frame.py"):
        assert world.call("GET", f"/static/{version}/{wrong}", token=None).status_code == 404


def test_every_file_of_the_dashboard_is_in_the_wheel() -> None:
    """The patterns of setup.cfg match each of them."""
    root = Path(frame.__file__).parent
    config = configparser.ConfigParser()
    config.read(root.parents[1] / "setup.cfg")
    patterns = [one.strip() for one in config["options.package_data"]["web.dashboard"].split(",")]
    found = [path for name in ("templates", "static") for path in (root / name).rglob("*") if path.is_file()]
    files = [path.relative_to(root) for path in found]
    assert len(files) > 20
    assert [path for path in files if not any(_matches(path, pattern) for pattern in patterns)] == []


def _matches(path: Path, pattern: str) -> bool:
    """A star of setuptools stays in its folder."""
    return len(path.parts) == pattern.count("/") + 1 and fnmatch.fnmatch(str(path), pattern)
