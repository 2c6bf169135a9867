"""Signed requests of nodes and workspaces that are forged, copied, late, or of somebody else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import event, update

from taskflow import protocol, signing
from taskflow.db.models import Token, Workspace
from tests.security.conftest import Picture
from tests.web.test_callbacks import BEAT, FAILED, READY
from tests.web.world import Place, World
from web.auth import CALLBACK_BODY_BYTES_MAX

Case = tuple[str, str, str, Any]


def _cases(place: Place) -> list[Case]:
    """One route of a node and one of a workspace: scope, id, path, body."""
    beat = protocol.route(protocol.CALLBACK_NODE_HEARTBEAT, node_id=place.node_id)
    ready = protocol.route(protocol.CALLBACK_WORKSPACE_OUTCOME, workspace_id=place.workspace_id)
    return [("node", place.node_id, beat, BEAT), ("workspace", place.workspace_id, ready, READY)]


@pytest.fixture
def place(world: World) -> Place:
    """Where a task runs."""
    return world.place(world.submit())


def test_who_signs_with_its_token_is_heard_and_so_is_who_shows_it(world: World, place: Place) -> None:
    """A person with curl may show the token: to know it is the same."""
    for case, token in zip(_cases(place), (place.node_token, place.workspace_token), strict=True):
        assert world.signed(*case).status_code == 200
        assert world.call("POST", case[2], case[3], token=token).status_code == 200


@pytest.mark.parametrize(
    "forged",
    [
        {"key": "another key"},
        {"method": "PUT"},
        {"target": "/callbacks/nodes/other/heartbeat"},
        {"signed_body": b"{}"},
        {"signed_body": b""},
    ],
)
def test_a_signature_is_good_for_one_request_only(
    world: World, picture: Picture, place: Place, forged: dict[str, Any]
) -> None:
    """Another key, method, path or body than the one that was signed is 401, and nothing is written."""
    before = picture()
    for case in _cases(place):
        answer = world.signed(*case, **forged)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")
    assert picture() == before


@pytest.mark.parametrize("age_s", [61.0, 3600.0, -61.0])
def test_a_signature_is_good_for_its_time_only(world: World, picture: Picture, place: Place, age_s: float) -> None:
    """What was overheard is worth nothing a minute later; one from the future is none. ``clock`` tells the sender."""
    before = picture()
    for case in _cases(place):
        answer = world.signed(*case, age_s=age_s)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "clock")
    assert picture() == before
    for case in _cases(place):
        assert world.signed(*case, age_s=age_s * 0.9 if abs(age_s) < 100 else 59.0).status_code == 200


def test_a_request_that_is_sent_again_within_its_time_changes_nothing(
    world: World, picture: Picture, place: Place
) -> None:
    """A copy of a report is a repeat: the first one counts."""
    _, case = _cases(place)
    assert world.signed(*case).status_code == 200
    before = picture()
    assert world.signed(*case).status_code == 200
    assert world.signed(*case[:3], FAILED).status_code == 409
    assert picture() == before


def test_another_ones_signature_is_403(world: World, picture: Picture, place: Place) -> None:
    """Another node's, another workspace's, and that of the workspace on the node's own route."""
    other = world.place(world.submit())
    (_, _, beat, _), (_, _, ready, _) = _cases(place)
    before = picture()
    assert world.signed("node", other.node_id, beat, BEAT).status_code == 403
    assert world.signed("workspace", other.workspace_id, ready, READY).status_code == 403
    assert world.signed("workspace", place.workspace_id, beat, BEAT).status_code == 403
    assert world.signed("node", place.node_id, ready, READY).status_code == 403
    assert picture() == before


def _end_token(world: World, subject_id: str, ended: dict[str, float]) -> None:
    world.database.write(lambda tx: tx.execute(update(Token).where(Token.subject_id == subject_id).values(**ended)))


@pytest.mark.parametrize("ended", [{"revoked_at": 1.0}, {"expires_at": 1.0}])
def test_a_token_that_ended_signs_nothing(world: World, place: Place, ended: dict[str, float]) -> None:
    """Revoked, expired, or of a generation that was never made: knowing how it is derived is not enough."""
    for case in _cases(place):
        assert world.signed(*case, generation=1).status_code == 401
        _end_token(world, case[1], ended)
        assert world.signed(*case).status_code == 401
    assert world.row(Workspace, place.workspace_id).status == "reserved"


@pytest.mark.parametrize(
    "key_id",
    [
        "", "node", "node:x", "agent:{id}:0", "bootstrap:{id}:0", "api:{id}:0", "node:{id}:00", "node:{id}:-1",
        "node:{id}:1e3", "node:{id}:99999999999", "node::0", "node:" + "x" * 81 + ":0", "node:ä:0", "node:{id}:0\n",
        "node:' OR 1=1 --:0",
    ],
)  # fmt: skip
def test_what_is_forged_asks_no_database(world: World, place: Place, key_id: str) -> None:
    """Not even with a good signature of something: a flood of it costs a hash each."""
    asked: list[str] = []
    event.listen(world.database.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
    path = _cases(place)[0][2]
    for key in ("guessed", place.node_token):
        signed = signing.sign(
            key, key_id.format(id=place.node_id), method="POST", target=path, body=b"{}", now=world.service.now()
        )
        signed = signed.replace("\n", " ").encode().decode("latin-1")
        answer = world.call("POST", path, {}, token=None, headers={"Authorization": signed})
        assert answer.status_code == 401
    assert asked == []


@pytest.mark.parametrize("header", ["Signed", "Signed ", "Signed x", "Signed a:b.c.d", "signed node:n:0:" + "0" * 64])
def test_what_is_no_signature_is_401(world: World, place: Place, header: str) -> None:
    """Cut off anywhere."""
    for case in _cases(place):
        answer = world.call("POST", case[2], case[3], token=None, headers={"Authorization": header})
        assert answer.status_code == 401


def test_only_nodes_and_workspaces_sign(world: World, place: Place) -> None:
    """Users and servers that boot show their token."""
    path = protocol.route(protocol.CALLBACK_NODE_BOOTSTRAP, node_id=place.node_id)
    for target, token in (("/api/tasks", world.token), (path, place.bootstrap_token)):
        signed = signing.sign(token, "api:x:0", method="GET", target=target, body=b"", now=world.service.now())
        method = "GET" if target.startswith("/api") else "POST"
        assert world.call(method, target, token=None, headers={"Authorization": signed}).status_code == 401


def test_the_query_is_signed_too(world: World, place: Place) -> None:
    """A parameter that is added to a signed request makes it another one."""
    scope, subject_id, path, body = _cases(place)[0]
    assert world.signed(scope, subject_id, path + "?a=1", body).status_code == 200
    assert world.signed(scope, subject_id, path + "?a=1", body, target=path).status_code == 401


def test_a_body_past_the_limit_is_refused_before_it_is_hashed(world: World, place: Place) -> None:
    """The limit stands in front: a signature does not make us read more. For good: 400 stops the sender."""
    scope, subject_id, path, _ = _cases(place)[0]
    body = b'"' + b"x" * CALLBACK_BODY_BYTES_MAX + b'"'
    key = world.vault.derive_token(scope, subject_id)
    signed = signing.sign(
        key, f"{scope}:{subject_id}:0", method="POST", target=path, body=body, now=world.service.now()
    )
    headers = {"Authorization": signed, "Content-Type": "application/json"}
    answer = world.client.post(path, data=body, headers=headers)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "too_large")


def test_a_refused_signature_is_401_before_the_body_is_read(world: World, place: Place) -> None:
    """Who is not known learns nothing about what a route takes, and makes us read nothing."""
    scope, subject_id, path, _ = _cases(place)[0]
    answer = world.signed(scope, subject_id, path, {"nonsense": json.dumps([0] * 100)}, key="guessed")
    assert answer.status_code == 401
