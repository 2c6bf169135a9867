"""Runs of pipelines of one's own over HTTP."""

from __future__ import annotations

import base64
import dataclasses

import pytest
from werkzeug.test import TestResponse

from taskflow.db.models import Run
from tests.web.world import ORDER, World
from web.limits import RequestLimit


def test_a_run_is_started_shown_and_listed(world: World) -> None:
    """202 with its address; the same key answers with the same run."""
    body = {"pipeline": "order", "subject": "order 7", "input": {"amount": 5}}
    first = world.call("POST", "/api/runs", body, headers={"Idempotency-Key": "k"})
    again = world.call("POST", "/api/runs", body, headers={"Idempotency-Key": "k"})
    run = first.get_json()
    assert (first.status_code, first.headers["Location"]) == (202, f"/api/runs/{run['id']}")
    assert (again.get_json(), again.headers["Idempotent-Replayed"]) == (run, "true")
    assert (run["status"], run["step"], run["input"]) == ("running", "paid", {"amount": 5, "note": ""})
    assert world.call("GET", f"/api/runs/{run['id']}").get_json() == run
    (line,) = world.call("GET", "/api/runs?pipeline=order&finished=false&status=running,waiting").get_json()["runs"]
    assert line == {name: run[name] for name in run if name not in ("input", "results", "result")}
    assert world.call("GET", "/api/runs?status=completed").get_json()["runs"] == []
    assert run["id"] in world.publisher.rung
    assert world.count(Run) == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"pipeline": "order", "input": {"amount": "5"}}, 422, "input.amount"),
        ({"pipeline": "order", "input": {}}, 422, "input.amount"),
        ({"pipeline": "order", "input": {"amount": 5, "typo": 1}}, 422, "input.typo"),
        ({"pipeline": "order", "input": [5]}, 422, "input"),
        ({"input": {}}, 422, "pipeline"),
        ({"pipeline": "order", "subject": "", "input": {"amount": 5}}, 422, "subject"),
        ({"pipeline": "other", "input": {}}, 400, "pipeline"),
        ({"pipeline": "agent_task", "input": {}}, 400, "pipeline"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_field(
    world: World, body: dict[str, object], status: int, field: str
) -> None:
    """And nothing is started."""
    answer = world.call("POST", "/api/runs", body)
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (status, [field])
    assert world.count(Run) == 0


@pytest.mark.parametrize("how", ["bearer", "basic"])
def test_an_outside_system_signals_with_the_token_it_was_given(world: World, how: str) -> None:
    """In a header, never in the address: as a bearer, or as the password of HTTP Basic."""
    run = world.start()
    given = world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": "paid", "valid_s": 60}).get_json()
    basic = base64.b64encode(f"anybody:{given['token']}".encode()).decode()
    header = {"bearer": f"Bearer {given['token']}", "basic": f"Basic {basic}"}[how]
    path = f"/callbacks/runs/{run['id']}/signals/paid"
    assert given["url"].endswith(path)
    assert given["token"] not in given["url"]

    def send(body: object) -> tuple[int, object]:
        answer = world.call("POST", path, body, token=None, headers={"Authorization": header})
        return answer.status_code, answer.get_json().get("recorded")

    assert send({"status": "paid", "nested": {"id": 1}}) == (200, True)
    assert send({"nested": {"id": 1}, "status": "paid"}) == (200, False)
    assert send({"status": "declined"}) == (409, None)
    assert send(["no", "object"]) == (422, None)
    world.end_run(run)
    assert send({"status": "paid", "nested": {"id": 1}}) == (200, False)
    events = world.call("GET", f"/api/runs/{run['id']}/events").get_json()["events"]
    assert [(event["kind"], event["actor"]) for event in events] == [
        ("run_started", "api:cli"), ("signal_recorded", "run:paid"),
    ]  # fmt: skip


def test_a_token_of_a_callback_opens_nothing_else(world: World) -> None:
    """Not its run, not another signal; and a user's token is none."""
    run = world.start()
    token = world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": "paid"}).get_json()["token"]
    assert world.call("GET", f"/api/runs/{run['id']}", token=token).status_code == 401
    assert world.call("POST", f"/callbacks/runs/{run['id']}/signals/note", {}, token=token).status_code == 403
    assert world.call("POST", f"/callbacks/runs/{run['id']}/signals/paid", {}).status_code == 401
    assert world.call("POST", "/callbacks/runs/run-%00/signals/paid", {}, token=token).status_code == 401


def test_who_signals_too_often_is_refused_before_anything_is_looked_up(world: World) -> None:
    """Whoever was given a token, or made one up, is told when to come again; another token is not held up."""
    run = world.start()
    tokens = {
        name: world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": name}).get_json()["token"]
        for name in ("paid", "note")
    }
    world.client.application.extensions["taskflow.limit"] = RequestLimit(0.1)  # one in ten seconds

    def send(name: str, token: str) -> TestResponse:
        return world.call("POST", f"/callbacks/runs/{run['id']}/signals/{name}", {}, token=token)

    assert [send("paid", tokens["paid"]).status_code for _ in range(2)] == [200, 429]
    assert [send("paid", "tf_made-up").status_code for _ in range(2)] == [401, 429]
    assert send("note", tokens["note"]).status_code == 200
    assert int(send("note", tokens["note"]).headers["Retry-After"]) >= 1


def test_an_ended_run_takes_no_signal_and_gives_no_callback(world: World) -> None:
    """410, so that the sender stops."""
    run = world.start()
    world.end_run(run, error={"code": "step_timeout", "message": "too late"})
    assert world.call("POST", f"/api/runs/{run['id']}/signals/paid", {}).status_code == 410
    assert world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": "paid"}).status_code == 410
    assert world.call("POST", f"/api/runs/{run['id']}/cancel", {}).status_code == 409
    shown = world.call("GET", f"/api/runs/{run['id']}").get_json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "step_timeout")
    again, repeated = (
        world.call("POST", f"/api/runs/{run['id']}/rerun", {}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert (again.status_code, again.get_json()["number"]) == (202, 2)
    assert (repeated.get_json(), repeated.headers["Idempotent-Replayed"]) == (again.get_json(), "true")


@pytest.mark.parametrize("name", ["cancel", "rerun", "signals"])
def test_a_signal_may_be_called_like_anything_else(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also like what is asked of several tasks at once, which no task's id may be."""
    any_signal = dataclasses.replace(ORDER, signals=frozenset())
    monkeypatch.setitem(world.service.runs._pipelines, "order", any_signal)
    run = world.start()
    given = world.call("POST", f"/api/runs/{run['id']}/callbacks", {"signal": name}).get_json()
    assert world.call("POST", f"/api/runs/{run['id']}/signals/{name}", {}).get_json() == {"recorded": True}
    path = f"/callbacks/runs/{run['id']}/signals/{name}"
    assert world.call("POST", path, {}, token=given["token"]).get_json() == {"recorded": False}
    assert world.call("GET", f"/api/tasks/{name}").status_code == (405 if name != "signals" else 404)
    if name != "signals":
        allowed = world.call("OPTIONS", f"/api/tasks/{name}").headers["Allow"]
        assert {*allowed.split(", ")} == {"OPTIONS", "POST"}, "as the document says"


def test_a_signal_with_a_key_is_one_of_several(world: World) -> None:
    """Each key has one answer."""
    run = world.start()
    path = f"/api/runs/{run['id']}/signals/note"
    said = [
        world.call("POST", path, {"n": n}, headers={"Idempotency-Key": key}).status_code
        for n, key in ((1, "a"), (2, "b"), (2, "b"), (3, "b"))
    ]
    assert said == [200, 200, 200, 409]


def test_pipelines_are_listed_with_what_they_take(world: World) -> None:
    """To every role and owner alike; what is started with an input that fits the schema is taken."""
    viewer = world.service.accounts.create_token(owner="bob", name="v", role="viewer")["token"]
    (order,) = world.call("GET", "/api/pipelines", token=viewer).get_json()["pipelines"]
    assert (order["name"], order["version"], order["signals"]) == ("order", 1, ["note", "paid"])
    assert [step["name"] for step in order["steps"]] == ["paid", "cleanup"]
    assert (order["input_schema"]["required"], order["input_schema"]["additionalProperties"]) == (["amount"], False)
