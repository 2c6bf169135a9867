"""Requests that nobody thought of: made from the API's own document, and callbacks of any shape and order.

More of them with ``TASKFLOW_TEST_FUZZ_EXAMPLES`` (for each operation; default 15).
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from taskflow import protocol
from tests.security.conftest import Picture
from tests.security.test_routes import PAGES, TABLE
from tests.web.world import Place, World
from web.api import VERBS

EXAMPLES = int(os.environ.get("TASKFLOW_TEST_FUZZ_EXAMPLES", "15"))
_SETTINGS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
#: Status, media type, headers and body of an answer are what the document says of them.
CONFORMANCE = [
    status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
]  # fmt: skip
#: What a server may answer to a request it does not take.
REFUSED = frozenset({400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 429})


def _path(path: str, place: Place, task_id: str, run_id: str, token_id: str = "") -> str:
    ids = {
        "task_id": task_id, "node_id": place.node_id, "workspace_id": place.workspace_id,
        "session_id": place.session_id, "stage": "booted", "run_id": run_id, "name": "paid", "token_id": token_id,
    }  # fmt: skip
    return path.format(**ids)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("as_whom", ["its_owner", "nobody"])
@pytest.mark.parametrize(("method", "rule"), sorted(key for key in TABLE if key[1] not in PAGES))
def test_no_request_made_from_the_document_breaks_the_server(
    world: World, picture: Picture, method: str, rule: str, as_whom: str
) -> None:
    """No 5xx but the readiness that says so, no answer the document does not know, and a refusal writes nothing."""
    document = schemathesis.openapi.from_wsgi("/api/openapi.json", world.client.application)
    operation = document[re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)][method]
    task = world.submit()
    place = world.place(task)
    further = world.service.accounts.create_token(owner="ada", name="further")["id"]
    run = world.start()
    of_run = world.service.runs.callback(world.service.accounts.authenticate(world.token, "api"), run["id"], "paid")
    scope = {"node": place.node_token, "workspace": place.workspace_token, "run": of_run["token"]}
    of_callback = next((scope[kind] for kind in scope if rule.startswith(f"/callbacks/{kind}s")), None)

    @_SETTINGS
    @given(case=operation.as_strategy(), ids=st.sampled_from(["any", "own", "verb"]))
    def call(case: Any, ids: str) -> None:
        headers = {name: str(value) for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
        if as_whom == "its_owner":
            headers["Authorization"] = f"Bearer {of_callback or world.token}"
        given_ids = case.path_parameters or {}
        if ids == "own":
            given_ids = {name: _path("{" + name + "}", place, task["id"], run["id"], further) for name in given_ids}
        elif ids == "verb":
            given_ids = dict.fromkeys(given_ids, VERBS[0])
        case.path_parameters = given_ids
        before = picture()
        response = case.call(headers=headers)
        allowed = {503} if rule == "/readyz" else set()
        assert response.status_code < 500 or response.status_code in allowed, response.text
        case.validate_response(response, checks=CONFORMANCE)
        if as_whom == "nobody" and of_callback is None and rule.startswith("/api/") and rule != "/api/openapi.json":
            # Where an id is expected, an address with a verb of several tasks leads elsewhere or nowhere.
            no_id = any(value in VERBS for name, value in given_ids.items() if name != "name")
            assert response.status_code == 401 or (no_id and response.status_code in (404, 405))
        if response.status_code >= 400:
            assert response.status_code in REFUSED | allowed
            assert picture() == before, f"{response.status_code}, and something was written"

    call()


_TEXT = st.text(max_size=80)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=6,
)  # fmt: skip
_OUTCOME = st.fixed_dictionaries(
    {}, optional={"status": st.sampled_from(["ready", "failed"]) | _JSON, "base_commit": _JSON, "error": _JSON}
)
_SESSION = st.fixed_dictionaries(
    {},
    optional={
        "outcome": st.sampled_from(protocol.SESSION_OUTCOMES) | _JSON, "exit_code": _JSON, "commit": _JSON,
        "changed_files": _JSON, "error": _JSON, "duration_s": _JSON,
    },
)  # fmt: skip
_CHUNK = st.fixed_dictionaries({}, optional={"number": st.integers(-2, 4) | _JSON, "data": _JSON | st.just("aGk=")})
_BEAT = st.fixed_dictionaries(
    {},
    optional={
        "protocol_version": _JSON, "agent_version": _JSON, "boot_id": _JSON, "ready": _JSON,
        "address": st.just("http://127.0.0.1:9") | _JSON, "sessions": _JSON, "workspaces": _JSON, "load1": _JSON,
    },
)  # fmt: skip
_CALLBACKS = {
    protocol.CALLBACK_WORKSPACE_OUTCOME: _OUTCOME, protocol.CALLBACK_SESSION_OUTCOME: _SESSION,
    protocol.CALLBACK_SESSION_LOGS: _CHUNK, protocol.CALLBACK_NODE_HEARTBEAT: _BEAT, protocol.CALLBACK_NODE_READY: _BEAT,
}  # fmt: skip


@pytest.mark.timeout(240)
def test_callbacks_of_any_shape_in_any_order_break_nothing(world: World, picture: Picture) -> None:
    """A node may be broken or taken over: its reports are recorded or refused for good, never a fault, never half."""
    place = world.place(world.submit())
    several = st.lists(
        st.sampled_from(sorted(_CALLBACKS)).flatmap(lambda route: st.tuples(st.just(route), _CALLBACKS[route])),
        min_size=1, max_size=6,
    )  # fmt: skip

    @settings(_SETTINGS, max_examples=4 * EXAMPLES)
    @given(requests=several)
    def call(requests: list[tuple[str, Any]]) -> None:
        for route, body in requests:
            node = "node_id" in route
            before = picture()
            answer = world.call(
                "POST",
                _path(route, place, "", ""),
                json_of(body),
                token=place.node_token if node else place.workspace_token,
            )
            assert answer.status_code == 200 or answer.status_code in REFUSED, answer.text
            if answer.status_code != 200:
                assert picture() == before

    call()


def json_of(body: dict[str, Any]) -> dict[str, Any]:
    """The body without numbers that JSON has no word for."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return None
        if isinstance(value, list):
            return [plain(one) for one in value]
        return {name: plain(one) for name, one in value.items()} if isinstance(value, dict) else value

    found: dict[str, Any] = plain(body)
    return found
