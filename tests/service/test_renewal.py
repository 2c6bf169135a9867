"""Tokens of nodes and workspaces are good for a while, and renewed by heartbeats."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from taskflow import protocol, signing
from taskflow.db.models import Token
from taskflow.errors import Unauthorized
from taskflow.sweeps.prune import prune
from tests.support.fake_agent import FakeAgent
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld

LIFE_S = 1000.0


@pytest.fixture
def world(make_remote_world: MakeWorld) -> World:
    """A task runs, its node keeps silent, and tokens live for a thousand seconds."""
    made = make_remote_world(callback_token_s=LIFE_S)
    made.plan.session_s = None
    made.at_step(made.submit(time_limit_s=20_000.0), "running")
    made.plan.beating = False
    return made


def _beat(world: World, token: str | None = None) -> dict[str, Any]:
    agent: FakeAgent = world.agent
    caller = world.service.accounts.authenticate(token or agent.node_key[0], "node")
    answer: dict[str, Any] = world.service.callbacks.node_heartbeat(caller, agent.order.node_id, agent.beat())
    protocol.load(protocol.HeartbeatAnswerSchema, answer)
    return answer


def _generations(world: World, scope: str) -> list[int]:
    with world.app.database.read() as tx:
        rows = tx.execute(select(Token.generation).where(Token.scope == scope).order_by(Token.generation))
        return list(rows.scalars())


def test_while_they_are_young_nothing_is_renewed(world: World) -> None:
    """A heartbeat then says the status and the time, which signatures go by."""
    answer = _beat(world)
    assert answer["status"] == "active"
    assert answer["time"] == pytest.approx(world.app.control.now())
    assert (answer["callback_token"], answer["workspace_tokens"]) == (None, {})
    assert _generations(world, "node") == _generations(world, "workspace") == [0]


def test_past_half_of_their_life_they_are_renewed_once_and_told_until_used(world: World) -> None:
    """An answer may be lost: the next one says the same. The node's own is told until it comes by it."""
    world.travel.shift(LIFE_S / 2 + 1)
    old = world.agent.node_key[0]
    first, again = _beat(world, old), _beat(world, old)
    assert first["callback_token"]["generation"] == 1
    assert {**first, "time": 0.0} == {**again, "time": 0.0}
    (workspace_id,) = world.agent.workspaces
    assert first["workspace_tokens"][workspace_id]["generation"] == 1
    assert _generations(world, "node") == _generations(world, "workspace") == [0, 1]
    used = _beat(world, first["callback_token"]["token"])
    assert used["callback_token"] is None
    assert used["workspace_tokens"] == first["workspace_tokens"]


def test_the_old_one_is_good_until_it_expires_and_the_new_one_after_that(world: World) -> None:
    """Between the two nothing that is under way is refused."""
    world.travel.shift(LIFE_S / 2 + 1)
    old = world.agent.node_key[0]
    new = _beat(world, old)["callback_token"]["token"]
    world.travel.shift(LIFE_S / 2 - 10)
    _beat(world, old)
    world.travel.shift(9.5)
    with pytest.raises(Unauthorized, match="expired"):
        _beat(world, old)
    assert _beat(world, new)["callback_token"] is None
    world.travel.shift(LIFE_S / 2)
    later = _beat(world, new)["callback_token"]
    assert later["generation"] == 2
    assert _generations(world, "node") == [1, 2]  # what is good for nothing any more is forgotten


def test_a_renewed_token_signs_under_its_generation(world: World) -> None:
    """Who signs says how often the token was renewed."""
    world.travel.shift(LIFE_S / 2 + 1)
    node_id = world.agent.order.node_id
    path, now = protocol.route(protocol.CALLBACK_NODE_HEARTBEAT, node_id=node_id), world.app.control.now()
    token = _beat(world)["callback_token"]["token"]
    signed = signing.sign(token, f"node:{node_id}:1", method="POST", target=path, body=b"{}", now=now)
    found = world.service.signatures.check(signed, "node", method="POST", target=path)
    assert (found.caller.subject_id, found.caller.generation) == (node_id, 1)


def test_a_task_outlives_many_lives_of_its_tokens(world: World) -> None:
    """As long as heartbeats come, reports are taken."""
    world.plan.beating = True
    world.run_for(5 * LIFE_S)
    assert world.agent.node_key[1] >= 5
    world.agent.finish_session(next(iter(world.agent.sessions)))
    (task,) = world.service.tasks.list(world.caller, limit=10)[0]
    assert world.finish(task)["status"] == "completed"


def test_what_ended_has_no_token_of_any_generation(world: World) -> None:
    """Pruned with the run that they were for."""
    world.plan.beating = True
    world.run_for(LIFE_S)
    (task,) = world.service.tasks.list(world.caller, limit=10)[0]
    world.cancel(task["id"])
    world.finish(task)
    world.dissolve()
    assert len(_generations(world, "node")) > 1
    assert len(_generations(world, "workspace")) > 1
    world.travel.shift(10)
    prune(world.app.database, now=world.app.control.now(), keep_s=0.0, limit=100)
    assert _generations(world, "node") == _generations(world, "workspace") == []


def test_tokens_of_a_local_node_do_not_expire(make_world: MakeWorld) -> None:
    """Its machine may sleep for days with a task on it, whose outcome counts all the same."""
    world = make_world(callback_token_s=LIFE_S)
    world.at_step(world.submit(), "running")
    with world.app.database.read() as tx:
        rows = tx.execute(select(Token.expires_at).where(Token.scope.in_(("node", "workspace")))).scalars().all()
    assert rows == [None, None]
