"""The world of the web tests, and its pages as a browser asks for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import insert, update

from taskflow.db.models import ErrorRow, Node, Sweep, Task
from tests.dashboard.page import Page
from tests.web.browser import Browser
from tests.web.conftest import app, control, database, service, world  # noqa: F401  fixtures
from tests.web.world import World

See = Callable[..., Page]
HOSTILE = """<script>alert(1)</script><img src=x onerror="alert(2)"> ' " & {{ 7*7 }}"""


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


@pytest.fixture
def busy(world: World) -> dict[str, str]:  # noqa: F811
    """Something of everything, with hostile texts wherever somebody else's text is shown: names -> ids."""
    world.submit(title="a draft", start=False)
    failed = world.submit(title=f"failed {HOSTILE}", labels={"l": HOSTILE}, env={"E": HOSTILE}, project="shop")
    world.end(
        failed, "failed", {"code": "exit", "message": f"message {HOSTILE}", "advice": HOSTILE, "detail": {"d": HOSTILE}}
    )
    done = world.submit(title="done", command=["sh", "-c", HOSTILE], setup_command=["echo", HOSTILE])
    world.end(done, "completed")
    running = world.submit(title=f"running {HOSTILE}", priority=3)
    place = world.place(running)
    world.database.write(
        lambda tx: (
            tx.execute(
                update(Task).where(Task.id == done["id"])
                .values(output_branch=HOSTILE, output_commit="c0ffee", changed_files=[HOSTILE], pushed=True, exit_code=0)
            ),
            tx.execute(update(Node).where(Node.id == place.node_id).values(error={"message": HOSTILE}, name=HOSTILE)),
            tx.execute(
                insert(ErrorRow).values(
                    owner_id=world.row(Task, running["id"]).owner_id, run_id=running["run_id"], step="running", attempt=1,
                    code="x", error={"message": HOSTILE}, retry_in_s=1.0, at=world.clock.now(),
                )
            ),
            tx.execute(insert(Sweep).values(name="prune", state={}, last_result={"said": HOSTILE}, failures=0)),
        )
    )  # fmt: skip
    world.call("POST", f"/api/tasks/{running['id']}/cancel", {"reason": HOSTILE})
    own = world.start(subject=HOSTILE)
    return {
        "failed": failed["id"],
        "done": done["id"],
        "running": running["id"],
        "node": place.node_id,
        "run": own["id"],
    }
