"""Callbacks, row by row of the design's table: early, twice, contradicting, during a turn, late, never, Redis away."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from sqlalchemy import delete

from taskflow.bootstrap import bootstrap
from taskflow.db import migrate
from taskflow.db.models import Installation, SignalRow
from taskflow.db.session import make_engine
from taskflow.errors import Conflict, Forbidden, Gone, NotFound, UsageError
from tests.support.fake_agent import FAILED, READY, outcome
from tests.support.virtual import FollowingClock
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld


def parked(world: World, step: str) -> tuple[dict[str, Any], Any, str, str]:
    """A task that waits at ``step``: (task, its workspace's caller, workspace id, session id or '')."""
    world.plan.session_s = None
    world.plan.workspace_s = None if step == "workspace_ready" else 1.0
    task = world.submit()
    world.at_step(task, step)
    workspace_id, workspace = next(iter(world.agent.workspaces.items()))
    caller = world.service.accounts.authenticate(workspace["token"], "workspace")
    return task, caller, workspace_id, next(iter(world.agent.sessions), "")


def test_while_it_is_awaited_the_next_step_starts_at_once(world: World) -> None:
    """No poll is waited for."""
    task, caller, workspace_id, _ = parked(world, "workspace_ready")
    assert world.service.callbacks.workspace_outcome(caller, workspace_id, READY) == {"recorded": True}
    took_s = world.run_until(lambda: world.task(task["id"])["step"] == "running", "it goes on")
    assert took_s < 0.01


def test_a_repeat_answers_the_same_and_rings_again(world: World) -> None:
    """The first ring may have died with its process."""
    _, caller, workspace_id, _ = parked(world, "workspace_ready")
    world.service.callbacks.workspace_outcome(caller, workspace_id, READY)
    rung = world.broker.published
    assert world.service.callbacks.workspace_outcome(caller, workspace_id, READY) == {"recorded": True}
    assert world.broker.published == rung + 1
    assert world.count(SignalRow, SignalRow.name == "workspace_outcome") == 1


def test_a_contradiction_is_refused_with_what_counts(world: World) -> None:
    """First wins."""
    task, caller, workspace_id, _ = parked(world, "workspace_ready")
    world.service.callbacks.workspace_outcome(caller, workspace_id, READY)
    with pytest.raises(Conflict) as refused:
        world.service.callbacks.workspace_outcome(caller, workspace_id, FAILED)
    assert refused.value.detail["stored"] == READY
    world.at_step(task, "running")


def test_while_a_turn_runs_the_commit_comes_back_at_once(world: World) -> None:
    """The turn has decided to park; the callback lands before it commits."""
    task, caller, workspace_id, _ = parked(world, "workspace_ready")
    sent: list[str] = []

    def land(run_id: str, name: str) -> None:
        if (run_id, name) == (task["run_id"], "performed:workspace_ready") and not sent:
            sent.append(name)
            world.service.callbacks.workspace_outcome(caller, workspace_id, READY)

    world.at_checkpoint = land
    world.run_until(lambda: sent, "a turn looks")
    assert world.task(task["id"])["step"] == "running"


def test_after_the_end_the_sender_is_told_to_stop(world: World) -> None:
    """And nothing changes, a released workspace does not come back."""
    task, caller, workspace_id, session_id = parked(world, "running")
    world.cancel(task["id"])
    before = world.finish(task)
    with pytest.raises(Gone):
        world.service.callbacks.workspace_outcome(caller, workspace_id, READY)
    with pytest.raises(Gone):
        world.service.callbacks.session_outcome(caller, workspace_id, session_id, outcome("exited", exit_code=0))
    assert world.task(task["id"]) == before
    world.assert_settled()


def test_while_redis_is_away_the_row_is_stored_and_found_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets its answer; the run goes on when Redis is back."""
    task, caller, workspace_id, _ = parked(world, "workspace_ready")

    def away(*_: Any, **__: Any) -> Any:
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(world.app.control, "signal", away)
        assert world.service.callbacks.workspace_outcome(caller, workspace_id, READY) == {"recorded": True}
    world.app.sweep("rescue")
    took_s = world.run_until(lambda: world.task(task["id"])["step"] == "running", "the rescue finds it")
    assert took_s < 0.01


def test_a_token_of_another_workspace_is_refused(world: World) -> None:
    """A workspace reports of itself alone."""
    _, caller, workspace_id, _ = parked(world, "running")
    with pytest.raises(Forbidden):
        world.service.callbacks.workspace_outcome(caller, workspace_id + "x", READY)
    with pytest.raises(NotFound):
        world.service.callbacks.session_outcome(caller, workspace_id, "session-x", outcome())


def test_log_chunks_are_stored_in_order_without_gap_or_double(world: World) -> None:
    """The answer is always the number that is wanted next."""
    task, caller, workspace_id, session_id = parked(world, "running")

    def send(number: int, data: bytes) -> int:
        chunk = {"number": number, "data": base64.b64encode(data).decode()}
        return int(world.service.callbacks.session_logs(caller, workspace_id, session_id, chunk)["next"])

    assert [send(1, b"a"), send(3, b"c"), send(1, b"again"), send(2, b"b")] == [2, 2, 2, 3]
    logs = world.service.tasks.logs(world.caller, task["id"])
    assert [base64.b64decode(chunk["data"]) for chunk in logs["chunks"]] == [b"a", b"b"]
    with pytest.raises(UsageError):
        world.service.callbacks.session_logs(caller, workspace_id, session_id, {"number": 3, "data": "%"})


def test_a_destroyed_node_is_told_to_stop(world: World) -> None:
    """Its heartbeats change nothing any more."""
    world.finish(world.submit())
    world.node_is("destroyed")
    caller = world.service.accounts.authenticate(world.agent.order.agent["callback_token"], "node")
    with pytest.raises(Gone):
        world.service.callbacks.node_heartbeat(caller, world.agent.order.node_id, world.agent.beat())
    assert world.node().status == "destroyed"


@pytest.fixture
def migrated_url(empty_database_url: str) -> str:
    """A database of each kind, with the schema."""
    engine = make_engine(empty_database_url)
    migrate.upgrade(engine)
    engine.dispose()
    return empty_database_url


@pytest.fixture
def shared_world(make_world: MakeWorld, migrated_url: str) -> World:
    """A world on each of the databases."""
    return make_world(database_url=migrated_url)


def test_of_many_answers_at_once_exactly_one_is_stored(shared_world: World) -> None:
    """Two contradicting answers, each sent by four connections at once: one wins, its repeats agree, others hear 409."""
    world = shared_world
    task, caller, workspace_id, session_id = parked(world, "running")
    answers = [outcome("exited", exit_code=n % 2, commit=None) for n in range(8)]

    def send(payload: dict[str, Any]) -> str:
        try:
            world.service.callbacks.session_outcome(caller, workspace_id, session_id, payload)
        except Conflict:
            return "conflict"
        return f"stored {payload['exit_code']}"

    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(send, answers))

    assert heard.count("conflict") == 4
    assert len(set(heard) - {"conflict"}) == 1
    assert world.count(SignalRow, SignalRow.name == "session_outcome") == 1
    winner = "completed" if "stored 0" in heard else "failed"
    assert world.finish(task)["status"] == winner
    world.assert_settled()


@pytest.mark.parametrize("limit", [0, 1])
def test_many_requests_with_one_idempotency_key_make_one_task(
    make_world: MakeWorld, migrated_url: str, limit: int
) -> None:
    """The twins that lose the race hear of the task that won, also where that was the last one to be let in."""
    world = make_world(database_url=migrated_url, owner_open_tasks_max=limit)
    spec = {"repository": "/r", "command": ["true"], "time_limit_s": 60.0}
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: world.service.tasks.submit(world.caller, spec, idempotency_key="k"), range(6)))
    assert len({task["id"] for task, _ in made}) == 1
    assert [new for _, new in made].count(True) == 1


def test_many_processes_of_a_new_installation_agree_on_its_shards(
    shared_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes the number first: nobody fails for having been second."""
    world = shared_world
    world.app.database.write(lambda tx: tx.execute(delete(Installation)))
    clock = FollowingClock(world.travel)
    apps = [bootstrap(world.settings, client=world.redis, clock=clock, providers={}) for _ in range(6)]
    world.apps[:0] = apps
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda app: app.check_installation(), apps)) == [None] * 6
    assert world.count(Installation) == 1
