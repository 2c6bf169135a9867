"""Every route of the url map, for every kind of caller: exactly the documented answer, and nothing written when refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask

from tests.security.conftest import Picture
from tests.web.test_callbacks import BEAT, EXITED, READY
from tests.web.world import SPEC, Place, World

CALLERS = (
    "nobody", "garbage", "expired", "revoked", "another_owner", "its_node", "its_workspace", "another_node",
    "another_workspace", "ended_workspace", "its_run", "another_signal", "another_run", "expired_run",
)  # fmt: skip
#: The tokens of callbacks of runs are known at callbacks of runs alone; elsewhere they are no tokens.
_OUTSIDE = dict.fromkeys(("its_run", "another_signal", "another_run", "expired_run"), 401)
_API = {
    "nobody": 401, "garbage": 401, "expired": 401, "revoked": 401, "another_owner": 404, "its_node": 403,
    "its_workspace": 403, "another_node": 403, "another_workspace": 403, "ended_workspace": 403, **_OUTSIDE,
}  # fmt: skip
#: A list of one's own: another owner sees an empty one.
_LIST = {**_API, "another_owner": 200}
_MAKE = {**_API, "another_owner": 202}
_OPEN = dict.fromkeys(CALLERS, 200)
#: Only a browser that is signed in sees it; see test_browsers.py.
_PAGE = dict.fromkeys(CALLERS, 303)
_NODE = {**_API, "another_owner": 403, "its_node": 200}
_WORKSPACE = {**_API, "another_owner": 403, "its_workspace": 200}
_RUN = {**dict.fromkeys(CALLERS, 401), "its_run": 200, "another_signal": 403}

#: (method, rule) -> what each caller is answered. A route that is not here fails the test.
TABLE: dict[tuple[str, str], dict[str, int]] = {
    ("GET", "/healthz"): _OPEN,
    ("GET", "/readyz"): dict.fromkeys(CALLERS, 503),  # no worker and no beat here; it says so to everybody
    ("GET", "/api/openapi.json"): _OPEN,
    ("GET", "/agent.pyz"): _OPEN,
    ("GET", "/metrics"): dict.fromkeys(CALLERS, 401),  # no token of the product is for what is everybody's
    ("POST", "/api/tasks"): _MAKE,
    ("GET", "/api/tasks"): _LIST,
    ("GET", "/api/tasks/<task_id>"): _API,
    ("POST", "/api/tasks/<task_id>/run"): _API,
    ("POST", "/api/tasks/<task_id>/cancel"): _API,
    ("POST", "/api/tasks/<task_id>/rerun"): _API,
    ("POST", "/api/tasks/cancel"): _LIST,  # each id is refused by itself
    ("POST", "/api/tasks/rerun"): _LIST,
    ("GET", "/api/tasks/<task_id>/runs"): _API,
    ("GET", "/api/tasks/<task_id>/errors"): _API,
    ("GET", "/api/errors"): _LIST,
    ("GET", "/api/queue"): _LIST,
    ("GET", "/api/sweeps"): _LIST,
    ("GET", "/api/tasks/<task_id>/events"): _API,
    ("GET", "/api/tasks/<task_id>/logs"): _API,
    ("POST", "/api/runs"): _MAKE,
    ("GET", "/api/runs"): _LIST,
    ("GET", "/api/pipelines"): _LIST,
    ("GET", "/api/runs/<run_id>"): _API,
    ("POST", "/api/runs/<run_id>/cancel"): _API,
    ("POST", "/api/runs/<run_id>/rerun"): _API,
    ("GET", "/api/runs/<run_id>/events"): _API,
    ("GET", "/api/runs/<run_id>/why"): _API,
    ("POST", "/api/runs/<run_id>/signals/<string:name>"): _API,
    ("POST", "/api/runs/<run_id>/callbacks"): _API,
    ("POST", "/callbacks/runs/<run_id>/signals/<string:name>"): _RUN,
    ("GET", "/api/events"): _LIST,
    ("GET", "/api/nodes/<node_id>/events"): _API,
    ("GET", "/api/tasks/<task_id>/why"): _API,
    ("GET", "/api/nodes"): _LIST,
    ("POST", "/api/nodes"): _MAKE,
    ("GET", "/api/nodes/<node_id>"): _API,
    ("GET", "/api/providers"): _LIST,
    ("POST", "/api/providers/check"): _MAKE,
    ("POST", "/callbacks/nodes/<node_id>/bootstrap"): {**_API, "another_owner": 403},
    ("POST", "/callbacks/nodes/<node_id>/boot/<stage>"): {**_API, "another_owner": 403},
    ("GET", "/api/usage"): _LIST,
    ("GET", "/api/overview"): _LIST,
    ("GET", "/api/settings"): _LIST,
    ("GET", "/api/whoami"): _LIST,
    ("GET", "/api/tokens"): _LIST,
    ("POST", "/api/tokens"): {**_API, "another_owner": 201},
    ("DELETE", "/api/tokens/<token_id>"): _API,
    ("POST", "/api/sign-in-links"): {**_API, "another_owner": 201},
    ("GET", "/api/audit"): _LIST,
    ("GET", "/login"): _OPEN,
    ("POST", "/login"): dict.fromkeys(CALLERS, 400),  # a bearer token is not what it takes
    ("GET", "/login/style.css"): _OPEN,
    ("GET", "/account"): _PAGE,
    ("POST", "/logout"): _PAGE,
    ("POST", "/api/nodes/<node_id>/drain"): _API,
    ("POST", "/api/nodes/<node_id>/destroy"): _API,
    ("POST", "/callbacks/nodes/<node_id>/ready"): _NODE,
    ("POST", "/callbacks/nodes/<node_id>/heartbeat"): _NODE,
    ("POST", "/callbacks/workspaces/<workspace_id>/outcome"): _WORKSPACE,
    ("POST", "/callbacks/workspaces/<workspace_id>/sessions/<session_id>/logs"): _WORKSPACE,
    ("POST", "/callbacks/workspaces/<workspace_id>/sessions/<session_id>/outcome"): _WORKSPACE,
    ("GET", "/"): _PAGE,
    ("GET", "/tasks"): _PAGE,
    ("GET", "/tasks/new"): _PAGE,
    ("GET", "/tasks/<task_id>"): _PAGE,
    ("GET", "/runs"): _PAGE,
    ("GET", "/runs/new"): _PAGE,
    ("GET", "/runs/<run_id>"): _PAGE,
    ("GET", "/nodes"): _PAGE,
    ("GET", "/nodes/<node_id>"): _PAGE,
    ("GET", "/errors"): _PAGE,
    ("GET", "/usage"): _PAGE,
    ("GET", "/sweeps"): _PAGE,
    ("GET", "/settings"): _PAGE,
    ("GET", "/static/<version>/<path:name>"): dict.fromkeys(CALLERS, 404),  # no file has such a name
}
#: For people: no part of the API's document.
PAGES = frozenset(
    {
        "/", "/tasks", "/tasks/new", "/tasks/<task_id>", "/runs", "/runs/new", "/runs/<run_id>", "/nodes",
        "/nodes/<node_id>",
        "/errors", "/usage", "/sweeps", "/settings", "/static/<version>/<path:name>", "/login", "/login/style.css",
        "/account", "/logout",
    }
)  # fmt: skip
BODIES: dict[str, Any] = {
    "/api/tasks": SPEC,
    "/api/runs": {"pipeline": "order", "input": {"amount": 5}},
    "/api/runs/<run_id>/callbacks": {"signal": "paid"},
    "/api/tasks/cancel": {"ids": ["task-other"]},
    "/api/tasks/rerun": {"ids": ["task-other"]},
    "/api/nodes": {"provider": "local"},
    "/api/tokens": {"name": "further", "role": "viewer"},
    "/callbacks/nodes/<node_id>/bootstrap": {"protocol_version": 1, "claim": "c" * 32},
    "/callbacks/nodes/<node_id>/ready": BEAT,
    "/callbacks/nodes/<node_id>/heartbeat": BEAT,
    "/callbacks/workspaces/<workspace_id>/outcome": READY,
    "/callbacks/workspaces/<workspace_id>/sessions/<session_id>/logs": {"number": 1, "data": "aGk="},
    "/callbacks/workspaces/<workspace_id>/sessions/<session_id>/outcome": EXITED,
}


@dataclass
class Scene:
    """A task under way, and everybody who might want something of it."""

    world: World
    task_id: str
    place: Place
    tokens: dict[str, str | None]
    token_id: str
    run_id: str

    def path(self, rule: str) -> str:
        """The rule with the ids of the task."""
        ids = {
            "task_id": self.task_id, "node_id": self.place.node_id, "workspace_id": self.place.workspace_id,
            "session_id": self.place.session_id, "stage": "booted", "token_id": self.token_id,
            "run_id": self.run_id, "name": "paid",
        }  # fmt: skip
        for name, value in ids.items():
            rule = rule.replace(f"<{name}>", value).replace(f"<string:{name}>", value)
        return rule


@pytest.fixture
def scene(world: World) -> Scene:
    """Made so that each kind of caller has a token that is right for something."""
    accounts = world.service.accounts
    expired = accounts.create_token(owner="ada", name="brief", expires_s=1)["token"]
    revoked = accounts.create_token(owner="ada", name="old")
    accounts.revoke_token(revoked["id"])
    run, other_run, of_run = world.start(), world.start(), world.service.runs.callback
    ada = accounts.authenticate(world.token, "api")
    brief = of_run(ada, other_run["id"], "note", valid_s=1)["token"]
    world.clock.advance(2)
    task, other, ended = world.submit(), world.submit(), world.submit()
    place, other_place, ended_place = world.place(task), world.place(other), world.place(ended)
    world.call("POST", f"/api/tasks/{ended['id']}/cancel", {})
    world.end(ended, "cancelled")
    return Scene(
        world, task["id"], place,
        {
            "nobody": None, "garbage": "tf_" + "x" * 43, "expired": expired, "revoked": revoked["token"],
            "another_owner": world.other_token, "its_node": place.node_token, "its_workspace": place.workspace_token,
            "another_node": other_place.node_token, "another_workspace": other_place.workspace_token,
            "ended_workspace": ended_place.workspace_token,
            "its_run": of_run(ada, run["id"], "paid")["token"],
            "another_signal": of_run(ada, run["id"], "note")["token"],
            "another_run": of_run(ada, other_run["id"], "paid")["token"], "expired_run": brief,
        },
        accounts.create_token(owner="ada", name="further")["id"],
        run["id"],
    )  # fmt: skip


def test_every_route_is_in_the_table(app: Flask) -> None:
    """Who adds a route says here what every kind of caller gets."""
    rules = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert rules == set(TABLE)


@pytest.mark.parametrize(("method", "rule"), sorted(TABLE))
def test_every_caller_gets_exactly_the_documented_answer(
    scene: Scene, picture: Picture, method: str, rule: str
) -> None:
    """And a refused one has changed nothing, in any table."""
    for caller in CALLERS:
        before = picture()
        answer = scene.world.call(
            method, scene.path(rule), BODIES.get(rule, {} if method == "POST" else None), token=scene.tokens[caller]
        )
        assert answer.status_code == TABLE[method, rule][caller], f"{caller}: {answer.text}"
        if answer.status_code >= 400:
            assert picture() == before, f"{caller} was refused and something was written"


@pytest.mark.parametrize(("method", "rule"), sorted(TABLE))
def test_other_methods_and_overrides_open_nothing(scene: Scene, picture: Picture, method: str, rule: str) -> None:
    """A method that is not the route's is 405 (or needs the same token), also when a header pretends another one."""
    before = picture()
    known = {known_method for known_method, known_rule in TABLE if known_rule == rule} | {"HEAD", "OPTIONS"}
    for wrong in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - known:
        answer = scene.world.call(wrong, scene.path(rule), headers={"X-HTTP-Method-Override": method})
        assert answer.status_code == 405, wrong
    assert picture() == before


def test_no_answer_may_be_read_by_a_page_of_another_site(scene: Scene) -> None:
    """CORS is off: no answer names an origin, a preflight opens nothing."""
    for method, rule in TABLE:
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": method}
        for answer in (
            scene.world.call("OPTIONS", scene.path(rule), headers=asked),
            scene.world.call("GET", "/api/tasks", headers=asked),
        ):
            assert not [name for name in answer.headers.keys() if name.lower().startswith("access-control-")]  # noqa: SIM118
