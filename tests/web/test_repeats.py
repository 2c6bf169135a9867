"""Requests that are sent again, and requests about many tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from taskflow.db.models import Run, Task
from taskflow.errors import InfrastructureError
from taskflow.service.repeats import BULK_MAX
from tests.web.world import SPEC, World
from web.api import schemas

KEY = {"Idempotency-Key": "k"}


def _post(world: World, path: str, body: Any = None, key: str = "k", **kwargs: Any) -> Any:
    return world.call("POST", path, body, headers={"Idempotency-Key": key}, **kwargs)


def test_a_rerun_that_is_asked_for_again_is_no_second_one(world: World) -> None:
    """Also when the run that it made has failed meanwhile; another key is another wish."""
    task = world.submit()
    path = f"/api/tasks/{task['id']}/rerun"
    world.end(task, "failed")
    first = _post(world, path)
    assert (first.status_code, first.get_json()["run_number"]) == (202, 2)
    assert "Idempotent-Replayed" not in first.headers
    world.end(first.get_json(), "failed")
    again = _post(world, path)
    assert (again.status_code, again.get_json()["run_number"], again.get_json()["status"]) == (202, 2, "failed")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert _post(world, path, key="another").get_json()["run_number"] == 3
    assert world.count(Run) == 3


def test_a_draft_is_started_once_and_a_cancel_answers_the_same(world: World) -> None:
    """Without a key each repeat is told what stands in the way; with it, what the first one did."""
    draft = world.submit(start=False)
    run, cancel = f"/api/tasks/{draft['id']}/run", f"/api/tasks/{draft['id']}/cancel"
    assert [_post(world, run).status_code for _ in range(2)] == [202, 202]
    assert world.call("POST", run).status_code == 409
    assert _post(world, cancel, {"reason": "r"}, key="c").status_code == 202
    world.end(world.call("GET", f"/api/tasks/{draft['id']}").get_json(), "cancelled")
    again = _post(world, cancel, {"reason": "r"}, key="c")
    assert (again.status_code, again.get_json()["status"]) == (202, "cancelled")
    assert world.call("POST", cancel).status_code == 409


def test_a_key_is_for_one_request(world: World) -> None:
    """Another verb, task, reason or kind of request with it is refused; another owner's keys are their own."""
    one, other = world.submit(start=False), world.submit(start=False)
    path = f"/api/tasks/{one['id']}/cancel"
    assert _post(world, path, {"reason": "a"}).status_code == 202
    for refused in (
        _post(world, path, {"reason": "b"}),
        _post(world, f"/api/tasks/{one['id']}/run"),
        _post(world, f"/api/tasks/{other['id']}/cancel", {"reason": "a"}),
        _post(world, "/api/tasks", {"repository": "/srv/repo", "command": ["true"]}),
    ):
        error = refused.get_json()["error"]
        assert (refused.status_code, error["code"]) == (409, "idempotency_key_reused")
        assert list(error["fields"]) == ["Idempotency-Key"]
    assert _post(world, path, {"reason": "a"}, token=world.other_token).status_code == 404
    assert world.row_status(other["id"]) == "draft"


def test_a_refused_request_uses_no_key_up(world: World) -> None:
    """It did nothing: the same request succeeds once it may."""
    task = world.submit()
    path = f"/api/tasks/{task['id']}/rerun"
    assert _post(world, path).status_code == 409
    world.end(task, "failed")
    answer = _post(world, path)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (202, False)


def test_two_at_once_with_one_key_do_it_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second into the table sees it when it looks again."""
    task = world.submit()
    world.end(task, "failed")
    repeats = world.service.repeats
    caller = world.service.accounts.authenticate(world.token, "api")
    original: Callable[..., Any] = repeats._once
    twin: list[Any] = []

    def once(*args: Any) -> Any:
        first = original(*args)

        def with_a_twin(tx: Any) -> None:
            if not twin:
                twin.append(None)
                # What a twin that is not committed yet leaves: this one did not see the key.
                from taskflow.db import tasks as rows

                monkeypatch.setattr(
                    "taskflow.service.repeats.idempotent_task",
                    lambda *a: monkeypatch.setattr("taskflow.service.repeats.idempotent_task", rows.idempotent_task),
                )
            first(tx)

        return with_a_twin

    assert repeats.do(caller, "rerun", task["id"], key="k")[1] is True
    monkeypatch.setattr(repeats, "_once", once)
    found, done = repeats.do(caller, "rerun", task["id"], key="k")
    assert (found["run_number"], done, world.count(Run)) == (2, False, 2)


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "é".encode().decode("latin-1")])
def test_a_key_that_can_be_none_is_refused(world: World, key: str) -> None:
    """By name, with nothing done."""
    answer = _post(world, "/api/tasks", SPEC, key=key)
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (422, ["Idempotency-Key"])
    assert world.count(Task) == 0


def test_every_write_that_knows_a_key_refuses_one_that_can_be_none(app: Flask, world: World) -> None:
    """Also where a repeat changes nothing anyway: the document says what a key looks like."""
    task, run = world.submit(), world.start()
    place = world.place(task)
    token_id = world.service.accounts.create_token(owner="ada", name="t")["id"]
    ids = {
        "task_id": task["id"], "node_id": place.node_id, "token_id": token_id, "run_id": run["id"], "name": "paid",
    }  # fmt: skip
    bodies = {
        "/api/tasks": SPEC, "/api/runs": {"pipeline": "order", "input": {"amount": 1}}, "/api/nodes": {"provider": "local"},
        "/api/tasks/cancel": {"ids": [task["id"]]}, "/api/tasks/rerun": {"ids": [task["id"]]},
    }  # fmt: skip
    tried = 0
    for path, operations in app.extensions["taskflow.document"]["paths"].items():
        for method, said in operations.items():
            parameters = said.get("parameters", ()) if method != "parameters" else ()
            if path.startswith("/callbacks/") or not any(one.get("name") == "Idempotency-Key" for one in parameters):
                continue
            body = None if method == "delete" else bodies.get(path, {})
            answer = world.call(method.upper(), path.format(**ids), body, headers={"Idempotency-Key": "a b"})
            assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (422, ["Idempotency-Key"]), path
            tried += 1
    assert tried >= 14
    assert world.row_status(task["id"]) == "queued"


def test_what_shows_a_secret_looks_at_no_key(world: World) -> None:
    """No secret is kept to be shown again: a token and a link are made anew, whatever the key; a callback has one."""
    run, key = world.start(), {"Idempotency-Key": "no key: it has blanks"}
    bodies = {
        "/api/tokens": {"name": "t", "role": "viewer"},
        "/api/sign-in-links": {},
        f"/api/runs/{run['id']}/callbacks": {"signal": "paid"},
    }
    shown = {}
    for path, body in bodies.items():
        answers = [world.call("POST", path, body, headers=key) for _ in range(2)]
        assert all(answer.status_code in (200, 201) for answer in answers), answers[0].text
        found = [answer.get_json() for answer in answers]
        shown[path] = [one.get("token") or one["path"] for one in found]
    tokens, links, callbacks = shown.values()
    assert (len(set(tokens)), len(set(links)), len(set(callbacks))) == (2, 2, 1)


def test_many_tasks_are_cancelled_each_by_itself(world: World) -> None:
    """One outcome for each that was named, in their order, with the status that it alone would have got."""
    queued, draft, ended, foreign = world.submit(), world.submit(start=False), world.submit(), world.submit()
    world.end(ended, "failed")
    ids = [ended["id"], queued["id"], "task-none", draft["id"], queued["id"]]
    answer = world.call("POST", "/api/tasks/cancel", {"ids": ids, "reason": "all of it"})
    found = answer.get_json()["outcomes"]
    assert answer.status_code == 200
    assert [(one["id"], one["status"]) for one in found] == [
        (ended["id"], 409), (queued["id"], 202), ("task-none", 404), (draft["id"], 202),
    ]  # fmt: skip
    assert [(one["error"] or {}).get("code") for one in found] == ["already_ended", None, "not_found", None]
    assert (found[0]["error"]["detail"], found[1]["task"]["cancel_requested"]) == ({"status": "failed"}, True)
    stranger = world.call("POST", "/api/tasks/cancel", {"ids": [foreign["id"]]}, token=world.other_token)
    assert [one["status"] for one in stranger.get_json()["outcomes"]] == [404]
    assert world.row_status(foreign["id"]) == "queued"


def test_many_reruns_with_a_key_are_done_once(world: World) -> None:
    """Each task has its part of the key: a repeat with one more does that one."""
    tasks = [world.submit() for _ in range(3)]
    for task in tasks:
        world.end(task, "failed")
    ids = [task["id"] for task in tasks]
    assert [one["status"] for one in _post(world, "/api/tasks/rerun", {"ids": ids[:2]}).get_json()["outcomes"]] == [
        202
    ] * 2
    again = _post(world, "/api/tasks/rerun", {"ids": ids}).get_json()["outcomes"]
    assert [(one["status"], one["task"]["run_number"]) for one in again] == [(202, 2)] * 3
    assert world.count(Run) == 6


def test_a_store_that_fails_meanwhile_is_the_outcome_of_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before it is told; when nothing was done, the whole request may be sent again."""
    ids = [world.submit()["id"] for _ in range(3)]
    original, asked = world.service.tasks.cancel, list[str]()

    def cancel(caller: Any, task_id: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(task_id)
        if len(asked) > 1:
            raise InfrastructureError("postgres at 10.1.2.3 is away", code="database", advice="wait")
        return original(caller, task_id, *args, **kwargs)

    monkeypatch.setattr(world.service.tasks, "cancel", cancel)
    answer = world.call("POST", "/api/tasks/cancel", {"ids": ids})
    found = answer.get_json()["outcomes"]
    assert [(one["status"], (one["error"] or {}).get("code")) for one in found] == [
        (202, None), (503, "database"), (503, "database"),
    ]  # fmt: skip
    assert asked == ids[:2], "nobody waits for a store that is away, again and again"
    assert "10.1.2.3" not in answer.text
    nothing = world.call("POST", "/api/tasks/cancel", {"ids": ids})
    assert nothing.status_code == 503 and "Retry-After" in nothing.headers


@pytest.mark.parametrize(
    ("ids", "field"),
    [([], "ids"), (["task-1"] * (BULK_MAX + 1), "ids"), (["a b"], "ids.0"), ("task-1", "ids"), ([None], "ids.0")],
)
def test_a_list_that_is_none_is_refused(world: World, ids: Any, field: str) -> None:
    """Empty, too long, or of what can't be an id."""
    for path in ("/api/tasks/cancel", "/api/tasks/rerun"):
        answer = world.call("POST", path, {"ids": ids})
        assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (422, [field])
    assert schemas.BULK_MAX == BULK_MAX
