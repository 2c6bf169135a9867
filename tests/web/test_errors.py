"""Every error has one shape, a request id, and says no more than the caller may know."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from taskflow.errors import InfrastructureError
from tests.web.world import SPEC, World
from web.api.answers import ErrorBodySchema
from web.context import BODY_BYTES_MAX


def _error(answer: Any) -> dict[str, Any]:
    body = answer.get_json()
    assert ErrorBodySchema().validate(body) == {}, body
    assert body["error"]["request_id"] == answer.headers["X-Request-Id"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "status", "code"),
    [
        ("GET", "/no/such/path", {}, 404, "not_found"),
        ("GET", "/api/tasks/task-unknown", {}, 404, "not_found"),
        ("GET", "/api/tasks/%00", {}, 404, "not_found"),
        ("GET", f"/api/tasks/{'x' * 500}", {}, 404, "not_found"),
        ("DELETE", "/api/tasks", {}, 405, "method_not_allowed"),
        ("POST", "/api/tasks", {"data": b"{}" + b" " * BODY_BYTES_MAX}, 413, "too_large"),
        ("POST", "/api/tasks", {"data": b"a=1", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/api/tasks", {"data": {"a": "1"}}, 415, "unsupported_media_type"),
        ("POST", "/api/tasks", {"data": b"{", "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"data": b"\xff", "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"data": b"[" * 500_000, "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"data": b"9" * 50_000, "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"data": b'{"priority": NaN}', "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"data": b'{"priority": 1e999}', "content_type": "application/json"}, 400, "not_json"),
        ("POST", "/api/tasks", {"json": []}, 422, "invalid"),
        ("POST", "/api/tasks", {}, 422, "invalid"),
        ("GET", "/api/tasks?limit=many", {}, 422, "invalid"),
        ("GET", "/api/tasks?cursor=!!", {}, 400, "invalid"),
        ("GET", "/api/tasks", {"token": None}, 401, "unauthorized"),
    ],
)
def test_every_error_has_the_one_shape(
    world: World, method: str, path: str, kwargs: dict[str, Any], status: int, code: str
) -> None:
    """Errors of the framework, of the schemas and of the product look alike."""
    if isinstance(kwargs.get("data"), bytes) and "content_type" not in kwargs:
        kwargs = {**kwargs, "content_type": "application/json"}
    answer = world.call(method, path, **kwargs)
    assert (answer.status_code, _error(answer)["code"]) == (status, code)
    assert answer.mimetype == "application/json"


@pytest.mark.parametrize("extra", [1, 2 * BODY_BYTES_MAX])
def test_a_body_of_unknown_length_is_not_cut_but_refused(world: World, extra: int) -> None:
    """A chunked body that passes the limit is 413, also when what fits would be a whole request."""
    body = json.dumps(SPEC).encode().ljust(BODY_BYTES_MAX + extra)
    chunked = {"Transfer-Encoding": "chunked"}
    answer = world.call(
        "POST", "/api/tasks", input_stream=io.BytesIO(body), content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True}, headers=chunked,
    )  # fmt: skip
    assert (answer.status_code, _error(answer)["code"]) == (413, "too_large")
    short = world.call(
        "POST", "/api/tasks", input_stream=io.BytesIO(body[:1000]), content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True}, headers=chunked,
    )  # fmt: skip
    assert short.status_code == 202


@pytest.mark.parametrize("odd", ["%00", "a%20b", "%ff", "x" * 81])
def test_an_id_that_is_none_is_not_looked_up(world: World, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    """404 before any store is asked: a text with NUL is an error of some databases, not a row that is missing."""
    asked: list[str] = []
    monkeypatch.setattr(world.service.tasks, "get", lambda _caller, task_id: asked.append(task_id))
    answer = world.call("GET", f"/api/tasks/{odd}")
    assert (answer.status_code, _error(answer)["code"]) == (404, "not_found")
    assert asked == []


def test_a_wrong_method_says_which_are_right(world: World) -> None:
    """405 keeps its Allow header."""
    assert "POST" in world.call("DELETE", "/api/tasks").headers["Allow"]


def test_an_unknown_fault_says_nothing_of_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 carries the request id only; the log has the traceback under it, without values of variables."""
    token = world.token

    def broken(*_args: object, **_kwargs: object) -> None:
        hidden = "hunter2-local"
        raise RuntimeError("the flux " + str(len(hidden)))

    monkeypatch.setattr(world.service.tasks, "get", broken)
    with capture_logs() as logs:
        answer = world.call("GET", "/api/tasks/task-1", headers={"X-Request-Id": "req-42"})
    assert answer.status_code == 500
    assert _error(answer) == {
        "code": "internal",
        "message": "something went wrong here; the log has it under the request id",
        "request_id": "req-42",
    }
    failed = next(entry for entry in logs if entry["event"] == "request_failed")
    assert "RuntimeError: the flux 13" in failed["exception"]
    assert "hunter2-local" not in str(logs).replace('hidden = "hunter2-local"', "")
    assert token not in str(logs)


def test_a_store_that_is_away_is_503_with_retry_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller learns when to ask again, not what the driver said about hosts and users."""

    def away(*_args: object, **_kwargs: object) -> None:
        raise InfrastructureError("the database failed: connection to 10.1.2.3 as joe", code="database")

    monkeypatch.setattr(world.service.tasks, "get", away)
    with capture_logs() as logs:
        answer = world.call("GET", "/api/tasks/task-1")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert _error(answer)["code"] == "database"
    assert "10.1.2.3" not in answer.text
    assert "10.1.2.3" in str(logs)


def test_submitting_works_while_redis_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is what counts: with Redis away a task is accepted, and the rescue starts it later."""

    def away(*_args: object, **_kwargs: object) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr("taskflow.engine.control.Control.ensure", away)
    assert world.call("POST", "/api/tasks", SPEC).status_code == 202


@pytest.mark.parametrize("given", ["a-1.B_2", "x" * 64])
def test_a_sane_request_id_is_taken(world: World, given: str) -> None:
    """The caller's id is kept, so that its log and ours can be joined."""
    assert world.call("GET", "/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "é", "a;b", "{}"])
def test_another_request_id_is_replaced(world: World, given: str) -> None:
    """An id that is none is not written into logs and headers."""
    made = world.call("GET", "/healthz", headers={"X-Request-Id": given}).headers["X-Request-Id"]
    assert made != given
    assert len(made) == 32


def test_log_lines_of_a_request_carry_its_id_and_no_token(world: World) -> None:
    """Each request leaves one line with id, status and caller; the next request does not inherit the id."""
    import structlog

    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        world.call("GET", "/api/tasks?cursor=secretive", headers={"X-Request-Id": "one"})
        world.call("GET", "/api/tasks", headers={"X-Request-Id": "two"})
    lines = [entry for entry in logs if entry["event"] == "request"]
    assert [(line["request_id"], line["status"]) for line in lines] == [("one", 400), ("two", 200)]
    assert lines[1]["caller"] == "api:cli"
    assert world.token not in str(logs)
    assert "secretive" not in str(logs)
    assert "request_id" not in structlog.contextvars.get_contextvars()


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/api/tasks", 200), ("/api/tasks/none", 404), ("/nowhere", 404)]
)
def test_answers_are_neither_cached_nor_guessed_nor_shared(world: World, path: str, status: int) -> None:
    """Security headers stand on answers and errors alike; no other origin is let in."""
    answer = world.call("GET", path, headers={"Origin": "https://elsewhere.example"})
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]


def test_many_wrong_fields_are_not_sent_back_whole(world: World) -> None:
    """The answer to a body full of nonsense stays small."""
    answer = world.call("POST", "/api/tasks", {f"field{n}" + "x" * 300: 1 for n in range(2000)})
    assert answer.status_code == 422
    assert len(answer.data) < 50_000


@pytest.mark.parametrize(
    ("body", "message", "place"),
    [
        (b'{"repository": "/r",\n "command": make}', "the body is not JSON: line 2, column 13", {"line": 2, "column": 13}),
        (b"\xff", "the body is not JSON", None),
    ],
)  # fmt: skip
def test_a_body_that_is_not_json_says_where(world: World, body: bytes, message: str, place: Any) -> None:
    """Line and column, and what is expected; not what stands there."""
    answer = world.call("POST", "/api/tasks", data=body, content_type="application/json")
    error = _error(answer)
    assert (answer.status_code, error["message"], error.get("detail")) == (400, message, place)
    assert "application/json" in error["advice"] and "make" not in error["message"]


def test_a_wrong_field_says_what_is_wanted(world: World) -> None:
    """What a list or an object looks like; of a name that is not known, which one is near."""
    wrong = {
        "command": "make test", "env": ["CI"], "resources": {"vcpu": 2}, "comand": 1, "labels": "x",
        "nothing_like_it_at_all": 1, "y" * 5000: 1,
    }  # fmt: skip
    fields = _error(world.call("POST", "/api/tasks", {"repository": "/srv/repo", **wrong}))["fields"]
    assert fields["command"] == 'a list of texts is needed, as ["make", "test"]'
    assert fields["env"].startswith("an object of texts is needed") and "object" in fields["labels"]
    assert fields["comand"] == "Unknown field. Is command meant?"
    assert fields["resources.vcpu"] == "Unknown field. Is vcpus meant?"
    assert fields["nothing_like_it_at_all"] == fields["y" * 200] == "Unknown field."
    resources = _error(world.call("POST", "/api/tasks", {**SPEC, "resources": "big"}))["fields"]
    assert resources == {"resources": 'an object is needed, as {"vcpus": 2}'}
    query = _error(world.call("GET", "/api/tasks?state=failed"))["fields"]
    assert query == {"state": "Unknown field. Is status meant?"}


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/api/tasks/task-x", "taskflow list shows"), ("/api/runs/run-x", "taskflow list --runs"),
        ("/api/nodes/node-x", "taskflow nodes"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_told_where_to_look(world: World, path: str, advice: str) -> None:
    """The command that lists what there is."""
    answer = world.call("GET", path)
    assert answer.status_code == 404 and advice in _error(answer)["advice"]


def test_an_empty_body_may_be_left_out(world: World) -> None:
    """Routes that take nothing need neither body nor content type, and refuse what they don't know."""
    draft = world.submit(start=False)
    wrong = world.call("POST", f"/api/tasks/{draft['id']}/run", {"fast": True})
    assert (wrong.status_code, _error(wrong)["fields"]) == (422, {"fast": "Unknown field."})
    assert world.call("POST", f"/api/tasks/{draft['id']}/run").status_code == 202
    assert json.loads(world.call("POST", f"/api/tasks/{draft['id']}/cancel").data)["id"] == draft["id"]
