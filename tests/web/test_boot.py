"""How far a new server's first boot is, as the server says it."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from taskflow import protocol
from taskflow.db.models import Event
from tests.web.test_callbacks import BEAT
from tests.web.world import Place, World


@pytest.fixture
def place(world: World) -> Place:
    """A node whose server boots."""
    return world.place(world.submit())


def _say(world: World, place: Place, stage: str, token: str | None = "") -> TestResponse:
    path = protocol.route(protocol.CALLBACK_NODE_BOOT, node_id=place.node_id, stage=stage)
    return world.call("POST", path, token=token or place.bootstrap_token)


def _events(world: World, place: Place) -> list[str]:
    with world.database.read() as tx:
        rows = tx.execute(select(Event).where(Event.subject_id == place.node_id, Event.kind == "boot_stage"))
        return [row.data["stage"] for row in rows]


def test_each_stage_is_kept_shown_and_in_the_history(world: World, place: Place) -> None:
    """Without a body: a server says it by curl."""
    assert world.call("GET", f"/api/nodes/{place.node_id}").get_json()["boot_stage"] is None
    for stage in protocol.BOOT_STAGES:
        answer = _say(world, place, stage)
        assert (answer.status_code, answer.get_json()) == (200, {"stage": stage})
        shown = world.call("GET", f"/api/nodes/{place.node_id}").get_json()
        assert shown["boot_stage"] == stage
        assert shown["boot_stage_at"] is not None
    assert _events(world, place) == list(protocol.BOOT_STAGES)


def test_it_never_goes_back(world: World, place: Place) -> None:
    """A report that comes late, or again, changes nothing; a stage may be left out."""
    assert _say(world, place, "agent_fetched").status_code == 200
    for late in ("booted", "agent_fetched"):
        answer = _say(world, place, late)
        assert (answer.status_code, answer.get_json()) == (200, {"stage": "agent_fetched"})
    assert _events(world, place) == ["agent_fetched"]


@pytest.mark.parametrize("stage", ["landed", "BOOTED", "booted%20", "0"])
def test_another_word_is_none(world: World, place: Place, stage: str) -> None:
    """404: the sender stops."""
    assert _say(world, place, stage).status_code == 404
    assert _events(world, place) == []


def test_only_the_server_itself_says_it_and_only_until_its_agent_is_ready(world: World, place: Place) -> None:
    """With the token of its user data, which is worth nothing any more then."""
    other = world.place(world.submit())
    for token in (other.bootstrap_token, place.node_token, world.token):
        assert _say(world, place, "booted", token).status_code == 403
    path = protocol.route(protocol.CALLBACK_NODE_HEARTBEAT, node_id=place.node_id)
    assert world.call("POST", path, BEAT, token=place.node_token).status_code == 200
    assert _say(world, place, "booted").status_code == 401
    assert _events(world, place) == []
