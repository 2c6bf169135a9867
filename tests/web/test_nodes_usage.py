"""Ordering nodes, letting them go, and what was used, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Workspace
from tests.web.world import World

ORDER = {"provider": "local"}


def test_an_order_answers_with_the_node_and_its_address(world: World) -> None:
    """202, the whole node, and the same one when it is repeated with its key."""
    headers = {"Idempotency-Key": "k"}
    answer = world.call("POST", "/api/nodes", ORDER, headers=headers)
    node = answer.get_json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/nodes/{node['id']}"
    assert (node["kept"], node["status"], node["cost"]) == (True, "requested", 0.0)
    caller = world.service.accounts.authenticate(world.token, "api")
    assert world.call("GET", answer.headers["Location"]).get_json() == world.service.nodes.show(caller, node["id"])
    again = world.call("POST", "/api/nodes", ORDER, headers=headers)
    assert again.get_json()["id"] == node["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = world.call("POST", "/api/nodes", {**ORDER, "memory_mb": 64}, headers=headers)
    assert (other.status_code, other.get_json()["error"]["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "provider"),
        ({"provider": "local", "vcpus": 0}, 422, "vcpus"),
        ({"provider": "local", "vcpus": "2"}, 422, "vcpus"),
        ({"provider": "local", "memory_mb": 1.5}, 422, "memory_mb"),
        ({"provider": "local", "size": ""}, 422, "size"),
        ({"provider": "local", "size": "a\0"}, 422, "size"),
        ({"provider": "local", "slots": 2}, 422, "slots"),
        ({"provider": "nobody"}, 400, "provider"),
        ({"provider": "local", "location": "mars"}, 400, "location"),
    ],
)
def test_an_order_that_does_not_fit_names_the_field(
    world: World, body: dict[str, Any], status: int, field: str
) -> None:
    """And nothing is ordered."""
    answer = world.call("POST", "/api/nodes", body)
    assert answer.status_code == status
    assert field in answer.get_json()["error"]["fields"]
    assert world.call("GET", "/api/nodes?destroyed=true").get_json()["nodes"] == []


def test_a_limit_is_a_429_that_says_which(world: World) -> None:
    """With when to ask again."""
    world.service.usage.set_quota("ada", "", {"nodes_max": 0})
    answer = world.call("POST", "/api/nodes", ORDER)
    assert answer.status_code == 429
    assert "0 of 0 nodes of yours" in answer.get_json()["error"]["message"]
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("verb", "body"), [("drain", {}), ("destroy", {}), ("destroy", {"force": True, "reason": "old"})]
)
def test_a_node_is_let_go(world: World, verb: str, body: dict[str, Any]) -> None:
    """202, also when it is repeated; one that is not there is a 404, a wrong body a 422."""
    node = world.call("POST", "/api/nodes", ORDER).get_json()
    path = f"/api/nodes/{node['id']}/{verb}"
    for _ in range(2):
        answer = world.call("POST", path, body)
        assert (answer.status_code, answer.get_json()["id"]) == (202, node["id"])
    assert world.call("POST", f"/api/nodes/node-none/{verb}", body).status_code == 404
    assert world.call("POST", path, {"force": "yes"}).status_code == 422


def test_tasks_have_a_project_and_are_listed_by_it(world: World) -> None:
    """It is shown, and '' is no project."""
    mine, other = world.submit(project="web"), world.submit()
    assert (mine["project"], other["project"]) == ("web", "")
    for project, expected in (("web", [mine["id"]]), ("", [other["id"]]), ("none", [])):
        page = world.call("GET", "/api/tasks", query_string={"project": project}).get_json()
        assert [task["id"] for task in page["tasks"]] == expected
    assert len(world.call("GET", "/api/tasks").get_json()["tasks"]) == 2


@pytest.mark.parametrize("project", ["a b", "-x", "x" * 65, "a/b", "\0", "é", 7, None])
def test_what_is_no_name_is_no_project(world: World, project: Any) -> None:
    """The field is named."""
    spec = {"repository": "/srv/repo", "command": ["true"], "project": project}
    answer = world.call("POST", "/api/tasks", spec)
    assert answer.status_code == 422
    assert "project" in answer.get_json()["error"]["fields"]


def test_usage_is_answered_as_the_service_says_it(world: World) -> None:
    """Of the present month, or of one that is named."""
    task = world.submit(project="web")
    world.place(task)
    world.clock.advance(60.0)
    caller = world.service.accounts.authenticate(world.token, "api")
    world.service.usage.set_quota("ada", "", {"budget": 5.0})
    answer = world.call("GET", "/api/usage")
    assert answer.status_code == 200
    assert answer.get_json() == world.service.usage.month(caller)
    assert answer.get_json()["limits"]["budget"] == 5.0
    named = world.call("GET", "/api/usage", query_string={"month": "2020-02"}).get_json()
    assert (named["month"], named["from"], named["cost"]) == ("2020-02", "2020-02-01T00:00:00.000Z", 0.0)


@pytest.mark.parametrize("month", ["2026-13", "2026-00", "1999-01", "now", "2026-11-01", ""])
def test_what_is_no_month_is_refused(world: World, month: str) -> None:
    """422, and the field is named."""
    answer = world.call("GET", "/api/usage", query_string={"month": month})
    assert answer.status_code == 422
    assert "month" in answer.get_json()["error"]["fields"]


def test_a_node_says_what_its_workspaces_reserved(world: World) -> None:
    """Alone and in the list, until they are released: slots that are free say nothing of what is left."""
    place = world.place(world.submit())
    asked = update(Workspace).where(Workspace.id == place.workspace_id)
    world.database.write(lambda tx: tx.execute(asked.values(vcpus=1.5, memory_mb=512)))
    (listed,) = world.call("GET", "/api/nodes").get_json()["nodes"]
    shown = world.call("GET", f"/api/nodes/{place.node_id}").get_json()
    for node in (listed, shown):
        assert (node["reserved_vcpus"], node["reserved_memory_mb"]) == (1.5, 512)
    world.database.write(lambda tx: tx.execute(asked.values(status="released", released_at=1.0)))
    shown = world.call("GET", f"/api/nodes/{place.node_id}").get_json()
    assert (shown["reserved_vcpus"], shown["reserved_memory_mb"]) == (0.0, 0)
