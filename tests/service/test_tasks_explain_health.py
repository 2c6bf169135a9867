"""The verbs on tasks, ``why``, and the checks of an installation."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from taskflow.clock import isoformat
from taskflow.errors import Conflict, InfrastructureError, NotFound, UsageError
from taskflow.service import TaskFilter
from tests.support.world import SPEC, World
from tests.support.world_fixtures import MakeWorld


def test_an_idempotency_key_makes_one_task_and_refuses_other_content(world: World) -> None:
    """A repeat answers with the first task, also after it moved on."""
    submit = world.service.tasks.submit
    first, made = submit(world.caller, SPEC, idempotency_key="k")
    world.at_step(first, "running")
    again, made_again = submit(world.caller, SPEC, idempotency_key="k")
    assert (made, made_again, again["id"], again["status"]) == (True, False, first["id"], "in_progress")
    with pytest.raises(Conflict) as refused:
        submit(world.caller, {**SPEC, "command": ["other"]}, idempotency_key="k")
    assert refused.value.code == "idempotency_key_reused"
    assert submit(world.caller_of("bob"), SPEC, idempotency_key="k")[1] is True


def test_a_draft_waits_for_its_start_and_starts_once(world: World) -> None:
    """A double click is refused."""
    draft = world.submit(start=False)
    world.run_for(60)
    assert world.task(draft["id"])["status"] == "draft"
    world.service.tasks.run(world.caller, draft["id"])
    with pytest.raises(Conflict):
        world.service.tasks.run(world.caller, draft["id"])
    assert world.finish(draft)["run_number"] == 1
    assert world.statuses(draft["id"])[:3] == ["draft", "ready", "queued"]


def test_a_task_submitted_while_redis_is_away_starts_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is the promise."""

    def away(*_: Any) -> Any:
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(world.app.control, "ensure", away)
        task = world.submit()
    assert world.finish(task)["status"] == "completed"


def test_pages_hold_every_task_once(world: World) -> None:
    """Tasks of one instant too; a stranger sees none, a foreign cursor is refused."""
    made = {world.submit(start=False)["id"] for _ in range(7)}
    seen: list[str] = []
    cursor = None
    while True:
        page, cursor = world.service.tasks.list(world.caller, limit=3, cursor=cursor)
        seen += [task["id"] for task in page]
        if cursor is None:
            break
    assert (len(seen), set(seen)) == (7, made)
    assert world.service.tasks.list(world.caller_of("bob")) == ([], None)
    assert world.service.tasks.list(world.caller, TaskFilter(statuses=("completed",)))[0] == []
    for wrong in ({"cursor": "x"}, {"wanted": TaskFilter(statuses=("lost",))}, {"wanted": TaskFilter(step="lost")}):
        with pytest.raises(UsageError):
            world.service.tasks.list(world.caller, **wrong)


def test_another_owners_task_does_not_exist(world: World) -> None:
    """No verb reaches it or says that it is there."""
    task, bob = world.submit(), world.caller_of("bob")
    tasks = world.service.tasks
    others = (world.service.events.of_task, world.service.explain.why)
    for verb in (tasks.get, tasks.cancel, tasks.rerun, tasks.run, tasks.logs, *others):
        with pytest.raises(NotFound):
            verb(bob, task["id"])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"time_limit_s": -1.0}, "time_limit_s"),
        ({"time_limit_s": 1e9}, "time_limit_s"),
        ({"env": {"A": "1"}, "secrets": {"A": "2"}}, "secrets"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(world: World, spec: dict[str, Any], field: str) -> None:
    """The error names it."""
    with pytest.raises(UsageError) as refused:
        world.submit(**spec)
    assert list(refused.value.fields) == [field]


WHY = {
    "waiting_for_capacity": "a free place",
    "node_provisioning": "is being created",
    "node_agent_ready": "has not reported yet",
    "workspace_ready": "ready callback is awaited",
    "running": "outcome is awaited",
    "node_selection": "being chosen",
    "workspace_creation": "place on the node",
    "workspace_dispatch": "handed to the node",
    "agent_session": "being started",
    "cleanup": "cleaned up",
}


@pytest.mark.parametrize("step", list(WHY))
def test_why_says_something_true_of_every_step(make_world: MakeWorld, step: str) -> None:
    """The step and what is awaited, until when, and what happens then."""
    world = make_world(node_slots=1 if step == "waiting_for_capacity" else 4)
    if step == "waiting_for_capacity":
        world.at_step(world.submit(), "running")
    task, found = world.submit(), list[dict[str, Any]]()
    world.at_checkpoint = lambda run, name: (
        found.append(world.why(task["id"])) if (run, name) == (task["run_id"], f"performed:{step}") else None
    )
    world.finish(task)

    why = found[0]
    assert why["step"] == step
    assert WHY[step] in why["summary"]
    limited = next(one for one in world.app.pipelines["agent_task"].steps if one.name == step).limit_s is not None
    assert (why["until"] is not None) is limited
    expected = {
        "cleanup": "gives up", "running": "asked once", "workspace_ready": "asked once",
        "waiting_for_capacity": "the reason why it waits",
    }  # fmt: skip
    assert expected.get(step, "the step fails" if limited else "it goes on") in why["then"]
    assert not why["then"].startswith("then")  # its name says that


def test_a_running_task_says_when_its_command_last_wrote_something(world: World) -> None:
    """As its node's heartbeats tell it; nothing before it wrote anything, and nothing of it once it has ended."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.run_for(30.0)
    for found in (world.task(task["id"]), world.why(task["id"])):
        assert found["last_output_at"] is None
    world.agent.output_bytes = 7
    world.run_for(30.0)
    shown, why = world.task(task["id"]), world.why(task["id"])
    assert shown["last_output_at"] == why["last_output_at"] == isoformat(world.node().last_heartbeat_at)
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["last_output_at"] is None


def test_why_names_the_cancel_the_last_error_and_the_end(world: World) -> None:
    """What holds a task up is in the answer, not in a log."""
    world.wire.before = lambda method, path: (
        (500, {"code": "disk", "message": "disk is full"}) if method == "PUT" else None
    )
    task = world.submit()
    world.run_until(lambda: world.errors(task["run_id"]), "an attempt fails")
    assert "disk is full" in world.why(task["id"])["last_error"]["message"]
    world.cancel(task["id"])
    assert "a cancel was requested" in world.why(task["id"])["summary"]
    world.finish(task)
    assert world.why(task["id"])["summary"] == "nothing: it is cancelled"


def test_why_keeps_the_choice_of_the_node_after_the_end(world: World) -> None:
    """Who looks for the reason of a failure asks where it ran, and why there."""
    task = world.submit()
    world.finish(task)
    why, ended = world.why(task["id"]), world.task(task["id"])
    assert why["placement"] == ended["placement"] is not None
    assert why["node"]["id"] == ended["node_id"] is not None
    draft = world.why(world.submit(start=False)["id"])
    assert (draft["placement"], draft["node"]) == (None, None)


def test_an_installation_with_another_number_of_shards_is_refused(world: World) -> None:
    """Starting would lose every alarm of the others."""
    object.__setattr__(world.app.settings, "shards", 8)
    with pytest.raises(InfrastructureError, match="has 4 shards"):
        world.app.check_installation()


def test_ready_says_which_store_is_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check by its name."""
    world.app.announce()
    world.app.sweep("outbox")
    assert world.service.health.ready()["ready"] is True

    def away() -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(world.redis, "ping", away)
    said = world.service.health.ready()
    assert (said["ready"], said["checks"]["redis"], said["checks"]["database"]) == (False, "refused", "ok")


def test_a_sweep_that_does_not_succeed_is_for_a_human_and_no_reason_to_take_no_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor warns of each that is late, whether it ever succeeded or not; readiness says nothing of it."""
    health, names = world.service.health, list(world.settings.sweep_intervals())

    def broken(memory: object) -> dict[str, Any]:
        raise ValueError("broken")

    monkeypatch.setitem(world.app.sweeps, "lost_nodes", broken)
    for name in names:
        if name != "lost_nodes":
            world.app.sweep(name)
    with pytest.raises(ValueError, match="broken"):
        world.app.sweep("lost_nodes")
    said = {one["check"]: one for one in health.doctor()}
    assert {said[f"sweep {name}"]["state"] for name in names} == {"ok"}
    assert said["sweep lost_nodes"]["says"] == "not yet; failed 1 times since"
    world.travel.shift(3 * 3600.0 + 60.0)
    said = {one["check"]: one for one in health.doctor()}
    assert {said[f"sweep {name}"]["state"] for name in names} == {"warning"}
    world.app.announce()
    world.app.sweep("outbox")
    assert health.ready()["ready"] is True


def test_the_doctor_warns_of_a_worker_or_beat_that_is_missing(world: World) -> None:
    """Before they are started nothing is broken; then it says how many live, and those that are gone are forgotten."""

    def said() -> dict[str, tuple[str, str]]:
        return {one["check"]: (one["state"], one["says"]) for one in world.service.health.doctor()}

    assert said()["worker"][0] == said()["beat"][0] == "warning"
    world.app.announce()
    world.app.sweep("outbox")
    assert (said()["worker"], said()["beat"]) == (("ok", "1 worker processes live"), ("ok", "ok"))
    (age_s,) = world.service.health.workers().values()
    assert age_s == pytest.approx(0, abs=1)
    world.travel.shift(25.0)
    assert said()["worker"][0] == "warning"
    world.app.pump.tick()
    assert said()["worker"] == ("ok", "1 worker processes live"), "its pump says it again"
    world.service.workers.goes()
    assert world.service.health.workers() == {}


def test_a_paused_sweep_is_left_out_and_doctor_reminds_of_it(world: World) -> None:
    """Until somebody lets it run again; a name that does not exist is an error of who asks."""
    health = world.service.health
    health.pause_sweep("warm_nodes", paused=True)
    assert world.app.sweep("warm_nodes") == {"paused": True}
    said = {one["check"]: one for one in health.doctor()}
    assert (said["sweep warm_nodes"]["state"], "resume" in said["sweep warm_nodes"]["says"]) == ("warning", True)
    health.pause_sweep("warm_nodes", paused=False)
    assert world.app.sweep("warm_nodes") == {"rung": 0}
    with pytest.raises(NotFound, match="warm_nodes"):
        health.pause_sweep("warm", paused=True)


def test_a_switch_that_can_not_be_read_stops_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Redis away the sweeps of SQL go on."""
    world.service.health.pause_sweep("warm_nodes", paused=True)

    def away(*_: object) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(world.redis, "mget", away)
    assert world.app.sweep("warm_nodes") == {"rung": 0}
