"""Submitting: once per idempotency key, drafts, and what a started task is."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Node, Run, Task
from tests.web.world import SPEC, World


def _submit(world: World, key: str, **spec: Any) -> Any:
    return world.call("POST", "/api/tasks", {**SPEC, **spec}, headers={"Idempotency-Key": key})


def test_submitting_queues_and_rings(world: World) -> None:
    """202, the task's address, one run, and its first alarm is published."""
    answer = world.call("POST", "/api/tasks", SPEC)
    task = answer.get_json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/tasks/{task['id']}"
    assert (task["status"], task["step"], task["run_number"]) == ("queued", "node_selection", 1)
    assert world.publisher.rung == [task["run_id"]]
    assert world.call("GET", answer.headers["Location"]).get_json() == task


def test_the_answer_holds_all_that_the_service_says(world: World) -> None:
    """The schemas of the answers leave nothing out: what the service shows, the API shows."""
    task = world.submit(labels={"a": "b"}, env={"A": "1"}, branch="main")
    world.place(task)
    caller = world.service.accounts.authenticate(world.token, "api")
    path = f"/api/tasks/{task['id']}"
    assert world.call("GET", path).get_json() == world.service.tasks.get(caller, task["id"])
    assert set(world.call("GET", f"{path}/why").get_json()) == set(world.service.explain.why(caller, task["id"]))
    page, _ = world.service.tasks.list(caller)
    assert world.call("GET", "/api/tasks").get_json()["tasks"] == list(page)
    events = world.service.events.of_task(caller, task["id"])
    assert world.call("GET", f"{path}/events").get_json()["events"] == list(events)
    assert world.call("GET", "/api/nodes").get_json()["nodes"] == world.service.nodes.list(caller)


def test_a_repeated_key_answers_with_the_first_task(world: World) -> None:
    """The same key and content: the same body, marked as replayed, and nothing new is made or rung."""
    first, second = _submit(world, "k1", secrets={"S": "1"}), _submit(world, "k1", secrets={"S": "1"})
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.get_json() == second.get_json()
    assert first.headers["Location"] == second.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert (world.count(Task), world.count(Run)) == (1, 1)
    assert len(world.publisher.rung) == 1


def test_a_default_that_is_spelled_out_is_the_same_content(world: World) -> None:
    """Leaving a field out and giving its default are one request."""
    assert _submit(world, "k1").status_code == 202
    assert _submit(world, "k1", push=True, labels={}, branch=None).headers["Idempotent-Replayed"] == "true"


def test_a_key_used_with_other_content_is_409(world: World) -> None:
    """A key names one request; with another one it is refused by name."""
    assert _submit(world, "k1").status_code == 202
    answer = _submit(world, "k1", command=["false"])
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert "Idempotency-Key" in answer.get_json()["error"]["fields"]
    assert world.count(Task) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "schlüssel"])
def test_a_key_that_is_none_is_refused(world: World, key: str) -> None:
    """A key has 1 to 200 visible ASCII characters."""
    answer = world.call("POST", "/api/tasks", SPEC, headers={"Idempotency-Key": key})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.get_json()["error"]["fields"]
    assert world.count(Task) == 0


def test_concurrent_twins_make_one_task(world: World) -> None:
    """Eight requests with one key at the same moment: one task, one run, eight equal answers."""
    app, barrier = world.client.application, threading.Barrier(8)
    answers: list[Any] = []

    def submit() -> None:
        client = app.test_client()
        barrier.wait()
        answers.append(
            client.post(
                "/api/tasks",
                json=SPEC,
                headers={"Authorization": f"Bearer {world.token}", "Idempotency-Key": "twin"},
            )
        )

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.get_json()["id"] for answer in answers}) == 1
    assert len([answer for answer in answers if "Idempotent-Replayed" not in answer.headers]) == 1
    assert (world.count(Task), world.count(Run)) == (1, 1)


def test_a_draft_waits_for_run(world: World) -> None:
    """`start: false` makes a draft without a run (201); running it starts it, and a double click is 409."""
    answer = world.call("POST", "/api/tasks", {**SPEC, "start": False})
    draft = answer.get_json()
    assert (answer.status_code, draft["status"], draft["run_id"]) == (201, "draft", None)
    assert answer.headers["Location"] == f"/api/tasks/{draft['id']}"
    assert world.publisher.rung == []
    started = world.call("POST", f"/api/tasks/{draft['id']}/run")
    again = world.call("POST", f"/api/tasks/{draft['id']}/run")
    assert (started.status_code, started.get_json()["status"]) == (202, "queued")
    assert (again.status_code, again.get_json()["error"]["detail"]) == (409, {"status": "queued"})
    assert world.count(Run) == 1


def test_a_replayed_draft_is_201(world: World) -> None:
    """A repeat has the status of the first answer."""
    assert _submit(world, "k", start=False).status_code == 201
    assert _submit(world, "k", start=False).status_code == 201


def test_clicks_on_run_at_the_same_moment_start_one_run(world: World) -> None:
    """Of six concurrent requests to run a draft one is accepted, the others are told 409."""
    draft = world.submit(start=False)
    app, barrier = world.client.application, threading.Barrier(6)
    statuses: list[int] = []

    def click() -> None:
        client = app.test_client()
        barrier.wait()
        path = f"/api/tasks/{draft['id']}/run"
        statuses.append(client.post(path, headers={"Authorization": f"Bearer {world.token}"}).status_code)

    threads = [threading.Thread(target=click) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [202] + [409] * 5
    assert world.count(Run) == 1


SECRET = "hunter2-never-shown"


def test_secrets_are_in_no_answer_and_in_no_plain_column(world: World) -> None:
    """Secrets go in and never come out: not in the task, its list, events, errors, or readable in the database."""
    task = world.submit(secrets={"API_KEY": SECRET})
    world.place(task)
    path = f"/api/tasks/{task['id']}"
    said = [
        world.call("GET", url).text
        for url in (path, "/api/tasks", f"{path}/events", f"{path}/logs", f"{path}/why", "/api/nodes")
    ]
    said.append(world.call("POST", f"{path}/cancel").text)
    said.append(
        world.call("POST", "/api/tasks", {**SPEC, "secrets": {"API_KEY": SECRET}, "env": {"API_KEY": "x"}}).text
    )
    said.append(world.call("POST", "/api/tasks", {**SPEC, "secrets": {"API_KEY": [SECRET]}}).text)
    said.append(world.call("POST", "/api/tasks", {**SPEC, "secrets": SECRET}).text)
    said.append(world.call("POST", "/api/tasks", {**SPEC, "secrets": {"API_KEY": SECRET + "\0"}}).text)
    said.append(str(world.row(Task, task["id"])))
    assert task["has_secrets"] is True
    assert [text for text in said if SECRET in text] == []


def test_a_name_is_env_or_secret(world: World) -> None:
    """A variable that is both is refused, naming the field and the variable."""
    answer = world.call("POST", "/api/tasks", {**SPEC, "env": {"A": "1"}, "secrets": {"A": "2"}})
    assert (answer.status_code, list(answer.get_json()["error"]["fields"])) == (400, ["secrets"])


def test_a_provider_that_there_is_not_is_refused_by_its_field(world: World) -> None:
    """With those that there are; one at which the caller has a node, as after it left the catalogue, may be named."""
    given = {**SPEC, "resources": {"provider": "awz"}}
    answer = world.call("POST", "/api/tasks", given)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["message"]) == (400, "no provider awz; there is: local")
    assert error["fields"] == {"resources.provider": "one of local"} and world.count(Task) == 0
    place = world.place(world.submit(resources={"provider": "local"}))
    world.database.write(lambda tx: tx.execute(update(Node).where(Node.id == place.node_id).values(provider="awz")))
    first = _submit(world, "k1", **given)
    assert first.status_code == 202
    assert world.call("POST", "/api/tasks", given, token=world.other_token).status_code == 400
    world.destroy(place)
    assert _submit(world, "k2", **given).status_code == world.call("POST", "/api/tasks", given).status_code == 400
    # Taken once, it is answered with its task: whoever asks again lost the answer.
    assert _submit(world, "k1", **given).get_json()["id"] == first.get_json()["id"]
    assert _submit(world, "k1", **{**given, "title": "another"}).status_code == 409


@pytest.mark.parametrize(
    ("command", "title"),
    [
        (["grep", "a b", "it's"], """grep 'a b' 'it'"'"'s'"""), (["sh", "-c", "exit 3"], "exit 3"),
        (["bash", "-c", " make\n  test "], "make test"), (["sh", "-c", " "], "sh -c ' '"),
        (["sh", "-c", "exit $1", "sh", "3"], "sh -c 'exit $1' sh 3"),
    ],
)  # fmt: skip
def test_a_task_without_a_title_is_called_by_its_command(world: World, command: list[str], title: str) -> None:
    """As one would type it; of a shell by what that was given."""
    assert world.submit(command=command)["title"] == title
