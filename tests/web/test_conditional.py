"""Tags of answers, and pages of other origins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from taskflow.errors import UsageError
from taskflow.settings import Settings
from tests.web.world import World
from web import create_app

READS = (
    "/api/tasks", "/api/tasks/{}", "/api/tasks/{}/events", "/api/tasks/{}/runs", "/api/tasks/{}/errors",
    "/api/tasks/{}/logs", "/api/events", "/api/errors", "/api/queue", "/api/nodes", "/api/providers", "/api/usage",
    "/api/sweeps", "/api/pipelines", "/api/settings",
)  # fmt: skip


@pytest.mark.parametrize("path", READS)
def test_what_is_the_same_is_not_sent_again(world: World, path: str) -> None:
    """Every read has a weak tag; who shows it gets 304 without a body, in a list of tags and for HEAD too."""
    path = path.format(world.submit()["id"])
    first = world.call("GET", path)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    for said in (tag, f'"x", {tag}', "*", tag.removeprefix("W/")):
        again = world.call("GET", path, headers={"If-None-Match": said})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag), said
        assert "X-Request-Id" in again.headers and "Content-Type" not in again.headers
    assert world.call("HEAD", path, headers={"If-None-Match": tag}).status_code == 304
    assert world.call("GET", path, headers={"If-None-Match": '"x"'}).get_json() == first.get_json()


def test_a_tag_changes_with_what_is_answered(world: World) -> None:
    """A change of the thing itself, of its run, or of a list that it is in."""
    task = world.submit()
    paths = (f"/api/tasks/{task['id']}", "/api/tasks", f"/api/tasks/{task['id']}/events")
    tags = {path: world.call("GET", path).headers["ETag"] for path in paths}
    world.call("POST", f"/api/tasks/{task['id']}/cancel")
    assert world.call("GET", paths[0], headers={"If-None-Match": tags[paths[0]]}).status_code == 200
    assert world.call("GET", paths[2], headers={"If-None-Match": tags[paths[2]]}).status_code == 200
    world.submit()
    assert world.call("GET", paths[1], headers={"If-None-Match": tags[paths[1]]}).status_code == 200


def test_a_tag_is_of_everything_that_an_answer_says(world: World) -> None:
    """Of output as bytes also of whether more will come: an empty rest is the same text before the end and after it."""
    task = world.submit()
    world.place(task)
    path, text = f"/api/tasks/{task['id']}/logs", {"Accept": "text/plain"}
    first = world.call("GET", path, headers=text)
    assert (first.data, first.headers["X-Log-Ended"]) == (b"", "false")
    world.end(task, "failed")
    again = world.call("GET", path, headers={**text, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.headers["X-Log-Ended"]) == (200, "true")


def test_neither_writes_nor_refusals_nor_streams_have_a_tag(world: World) -> None:
    """A tag is for what can be read again; who may not read learns nothing from one."""
    task = world.submit()
    path = f"/api/tasks/{task['id']}"
    tag = world.call("GET", path).headers["ETag"]
    refused = world.call("GET", path, token=world.other_token, headers={"If-None-Match": tag})
    assert (refused.status_code, "ETag" in refused.headers) == (404, False)
    assert world.call("GET", path, token=None, headers={"If-None-Match": "*"}).status_code == 401
    assert "ETag" not in world.call("POST", f"{path}/cancel", headers={"If-None-Match": "*"}).headers
    stream = world.call("GET", f"{path}/events", headers={"Accept": "text/event-stream", "If-None-Match": "*"})
    assert (stream.status_code, "ETag" in stream.headers) == (200, False)
    stream.close()


@pytest.fixture
def with_origins(world: World, settings: Settings) -> Callable[[str], FlaskClient]:
    """Makes the app for a value of the setting."""
    return lambda said: create_app(world.service, dataclasses.replace(settings, cors_origins=said)).test_client()


def _allowed(client: FlaskClient, origin: str, path: str = "/api/tasks", **headers: str) -> str | None:
    return client.get(path, headers={"Origin": origin, **headers}).headers.get("Access-Control-Allow-Origin")


def test_only_the_named_origins_may_call(world: World, with_origins: Callable[[str], FlaskClient]) -> None:
    """Letter by letter, on the API alone, and never with what a browser knows of this host."""
    client = with_origins("https://a.example, http://localhost:3000")
    assert _allowed(client, "https://a.example") == "https://a.example"
    assert _allowed(client, "http://localhost:3000") == "http://localhost:3000"
    for other in (
        "https://b.example", "https://a.example.evil.example", "http://a.example", "https://a.example:8443", "null",
        "https://A.example", "*", "https://a.example/",
    ):  # fmt: skip
        assert _allowed(client, other) is None, other
    assert _allowed(client, "https://a.example", "/healthz") is None
    token = {"Authorization": f"Bearer {world.token}", "Origin": "https://a.example"}
    answer = client.get("/api/tasks", headers=token)
    assert answer.status_code == 200
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_preflight_is_answered_without_a_token(with_origins: Callable[[str], FlaskClient]) -> None:
    """And allows no more than the request that follows needs; one of another origin is refused like any other request."""
    client = with_origins("https://a.example")
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = client.options("/api/tasks", headers={"Origin": "https://a.example", **asks})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin, path in (("https://b.example", "/api/tasks"), ("https://a.example", "/callbacks/nodes/n/ready")):
        refused = client.options(path, headers={"Origin": origin, **asks})
        assert (refused.status_code, refused.headers.get("Access-Control-Allow-Origin")) == (401, None)


@pytest.mark.parametrize(
    "said", ["*", "https://*.example", "a.example", "https://a.example/", "https://a.example/x", "null"]
)
def test_what_is_no_origin_stops_the_start(with_origins: Callable[[str], FlaskClient], said: str) -> None:
    """Said with the name of the setting."""
    with pytest.raises(UsageError) as refused:
        with_origins(f"https://ok.example,{said}")
    assert list(refused.value.fields) == ["TASKFLOW_CORS_ORIGINS"]
