"""Limits of owners and projects: who is held by one waits, reads why, and goes on when there is room again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from taskflow.db.models import Workspace
from taskflow.db.usage import month_at
from taskflow.db.waiting import best_ranks
from taskflow.errors import Conflict, NotFound, TooMany, UsageError
from taskflow.nodes import admission
from taskflow.nodes.limits import claims
from taskflow.nodes.sharing import Held, to_hand_over
from tests.support.world import SPEC, World
from tests.support.world_fixtures import MakeWorld, worlds_with

FILE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "debian-12"
nodes_max = 3
parallel_max = 3
offer = [
    {size = "s", location = "fsn1", vcpus = 4, memory_mb = 8000, slots = 2, price_per_hour = 60.0},
    {size = "l", location = "nbg1", vcpus = 8, memory_mb = 16000, slots = 4, price_per_hour = 120.0},
]
"""

MakeCloud = Callable[..., World]


@pytest.fixture
def make_cloud(make_world: MakeWorld, tmp_path: Path) -> MakeCloud:
    """A world whose only provider sells servers for a unit of money, or two, a minute."""

    waits = {"capacity_poll_s": 20.0, "admission_wait_s": 86_400.0}
    return worlds_with(make_world, tmp_path / "providers.toml", FILE, **waits)


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> World:
    """Such a world, whose sessions go on until they are ended."""
    world = make_cloud()
    world.plan.session_s = None
    return world


def _limit(world: World, project: str = "", owner: str = "ada", **values: float | None) -> None:
    world.service.usage.set_quota(owner, project, values)


def _step(world: World, task: dict[str, Any]) -> Any:
    return world.task(task["id"])["step"]


def _end_one(world: World) -> None:
    agent, session = next((agent, key) for agent in world.provider.agents.values() for key in agent.sessions)
    agent.finish_session(session)


def _waits_for(world: World, task: dict[str, Any], reason: str) -> None:
    world.at_step(task, "waiting_for_capacity")
    world.run_for(world.settings.capacity_poll_s + 1.0)
    assert reason in world.why(task["id"])["summary"]
    assert reason in world.task(task["id"])["placement"]["reason"]


# --- budgets


def test_a_used_up_budget_buys_nothing_until_it_is_raised(cloud: World) -> None:
    """What runs goes on and is used; who needs a new node waits with the numbers, and goes on at once when it is raised."""
    _limit(cloud, budget=5.0)
    first, second = cloud.submit(), cloud.submit()
    cloud.at_step(first, "running")
    cloud.at_step(second, "running")
    cloud.run_for(360.0)
    third = cloud.submit()
    month = month_at(time.time()).name
    _waits_for(cloud, third, f"the budget of 5.00 for {month} is used up: ")
    assert sum(cloud.provider.bought.values()) == 1

    _end_one(cloud)
    cloud.run_until(lambda: _step(cloud, third) == "running", "the running node is used", limit_s=60.0)

    fourth = cloud.submit()
    cloud.at_step(fourth, "waiting_for_capacity")
    _limit(cloud, budget=500.0)
    took_s = cloud.run_until(lambda: _step(cloud, fourth) == "node_provisioning", "another one is bought")
    assert took_s <= cloud.settings.outbox_interval_s + 1.0


def test_a_budget_begins_anew_with_the_month(make_cloud: MakeCloud) -> None:
    """Who waits goes on at midnight UTC on the first, without anybody doing anything."""
    cloud = make_cloud(admission_wait_s=40 * 86_400.0, node_warm_s=60.0)
    _limit(cloud, budget=1.0)
    cloud.finish(cloud.submit())
    cloud.node_is("destroyed")
    ends_at = month_at(time.time()).ends_at
    cloud.travel.move_to(datetime.fromtimestamp(ends_at - 300.0, timezone.utc), tick=False)
    task = cloud.submit()
    _waits_for(cloud, task, "the budget of 1.00")
    cloud.finish(task)
    assert cloud.task(task["id"])["status"] == "completed"
    assert 0.0 <= time.time() - ends_at < 300.0


def test_who_waits_longer_than_allowed_fails_with_the_reason(make_cloud: MakeCloud) -> None:
    """The limit of the wait ends it; the error says what stood in the way."""
    cloud = make_cloud(admission_wait_s=600.0)
    _limit(cloud, budget=0.0)
    done = cloud.finish(cloud.submit())
    assert (done["status"], done["error"]["code"]) == ("failed", "step_timeout")
    assert "the budget of 0.00 for" in done["error"]["message"]
    assert cloud.provider.calls.count("create") == 0


def test_the_budget_of_a_project_holds_no_other_one(cloud: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when more of its tasks, which need a larger node than there is, wait than are looked at at once."""
    monkeypatch.setattr(admission, "_PAGE", 2)
    _limit(cloud, "web", budget=0.0)
    held = [cloud.submit(project="web", resources={"vcpus": 8}) for _ in range(3)]
    _waits_for(cloud, held[0], "the budget of 0.00 of project web for")
    _limit(cloud, running_tasks_max=1)
    other, later = cloud.submit(project="api"), cloud.submit(project="api")
    cloud.at_step(other, "running")
    _waits_for(cloud, later, "1 of 1 tasks of yours run")
    _end_one(cloud)
    cloud.run_until(lambda: _step(cloud, later) == "running", "the next one of the other project", limit_s=60.0)
    assert {_step(cloud, task) for task in held} == {"waiting_for_capacity"}


# --- tasks, places, cores


def test_no_more_tasks_run_than_allowed_and_the_best_rank_is_next(cloud: World) -> None:
    """Though nodes have room; who waits longest or is more important goes first, as for capacity."""
    _limit(cloud, running_tasks_max=2)
    tasks = [cloud.submit() for _ in range(3)]
    cloud.at_step(tasks[0], "running")
    cloud.at_step(tasks[1], "running")
    _waits_for(cloud, tasks[2], "2 of 2 tasks of yours run")
    urgent = cloud.submit(priority=50)
    cloud.at_step(urgent, "waiting_for_capacity")
    _end_one(cloud)
    cloud.run_until(lambda: _step(cloud, urgent) == "running", "the more important one", limit_s=60.0)
    assert _step(cloud, tasks[2]) == "waiting_for_capacity"
    _limit(cloud, running_tasks_max=None)
    cloud.run_until(lambda: _step(cloud, tasks[2]) == "running", "the limit is gone", limit_s=120.0)


def test_two_that_choose_at_the_same_time_do_not_both_pass_a_limit(cloud: World) -> None:
    """The place is counted again in the transaction that keeps it."""
    _limit(cloud, running_tasks_max=2)
    holder = cloud.submit()
    cloud.at_step(holder, "running")
    first, second = cloud.submit(), cloud.submit()

    def overtake(run_id: str, name: str) -> None:
        if run_id == first["run_id"] and name == "performed:node_selection" and not cloud.steps(second["id"]):
            cloud.app.runner.turn(second["run_id"])

    cloud.at_checkpoint = overtake
    cloud.at_step(second, "running")
    cloud.at_step(first, "waiting_for_capacity")
    cloud.run_for(60.0)
    assert sorted([_step(cloud, first), _step(cloud, second)]) == ["running", "waiting_for_capacity"]


def test_a_node_holds_no_more_workspaces_of_a_project_than_allowed(cloud: World) -> None:
    """The next one gets a node of its own, while others use the room."""
    _limit(cloud, "web", node_workspaces_max=1)
    one, two, other = cloud.submit(project="web"), cloud.submit(project="web"), cloud.submit()
    for task in (one, two, other):
        cloud.at_step(task, "running")
    nodes = [cloud.task(task["id"])["node_id"] for task in (one, two, other)]
    assert nodes[0] != nodes[1]
    assert sum(cloud.provider.bought.values()) == 2


def test_used_up_vcpu_hours_leave_no_place_though_a_node_is_idle(cloud: World) -> None:
    """What runs is not ended by it."""
    _limit(cloud, vcpu_hours_max=0.5)
    first = cloud.submit(time_limit_s=7200.0)
    cloud.at_step(first, "running")
    cloud.run_for(20 * 60.0)
    second = cloud.submit()
    _waits_for(cloud, second, "the 0.5 vCPU hours for")
    assert _step(cloud, first) == "running"
    _limit(cloud, vcpu_hours_max=100.0)
    cloud.run_until(lambda: _step(cloud, second) == "running", "it goes on", limit_s=60.0)


def test_no_more_nodes_than_allowed(cloud: World) -> None:
    """Those that are being made count."""
    _limit(cloud, nodes_max=1)
    tasks = [cloud.submit() for _ in range(3)]
    cloud.at_step(tasks[0], "running")
    cloud.at_step(tasks[1], "running")
    _waits_for(cloud, tasks[2], "1 of 1 nodes of yours exist")
    assert sum(cloud.provider.bought.values()) == 1


def test_who_may_not_buy_has_no_claim_on_what_is_left_of_an_account(cloud: World) -> None:
    """Otherwise an owner without a budget would keep the last server from everybody."""
    cloud.caller_of("bob")
    _limit(cloud, owner="bob", budget=0.0)
    cloud.service.tasks.submit(cloud.caller_of("bob"), SPEC)
    cloud.run_for(60.0)
    ageing_s = cloud.settings.priority_ageing_s
    with cloud.app.database.read() as tx:
        assert set(best_ranks(tx, "cloud", ageing_s=ageing_s)) == {cloud.caller_of("bob").owner_id}
        assert claims(tx, "cloud", time.time(), ageing_s=ageing_s) == {}


def test_a_node_that_is_kept_is_not_handed_over() -> None:
    """Somebody ordered it to stay: another one of theirs goes, or none."""
    kept = [Held(f"k{number}", "r", "ada", 0, False, kept=True) for number in range(3)]
    assert to_hand_over(kept, {"bob": 1.0}) is None
    chosen = to_hand_over([*kept, Held("x", "r", "ada", 5, False)], {"bob": 1.0})
    assert chosen is not None
    assert chosen.node_id == "x"


# --- by hand


def test_a_node_by_hand_stays_idle_is_used_and_goes_when_told(make_cloud: MakeCloud) -> None:
    """Its warm time never ends; tasks use it like any other; a drain ends it."""
    cloud = make_cloud(node_warm_s=60.0)
    node, made = cloud.service.nodes.add(cloud.caller, {"provider": "cloud", "size": "l"})
    assert made
    assert (node["size"], node["location"], node["kept"], node["status"]) == ("l", "nbg1", True, "requested")
    cloud.node_is("warm")
    cloud.run_for(600.0)
    assert cloud.node().status == "warm"
    assert cloud.finish(cloud.submit())["node_id"] == node["id"]
    cloud.run_for(300.0)
    shown = cloud.service.nodes.show(cloud.caller, node["id"])
    assert (shown["status"], shown["warm_until"]) == ("warm", None)
    assert shown["cost"] == pytest.approx(shown["seconds"] / 3600 * 120.0, rel=1e-3)
    assert shown["seconds"] > 900.0
    cloud.service.nodes.drain(cloud.caller, node["id"])
    cloud.node_is("destroyed")
    cloud.assert_settled()


def test_who_waits_gets_a_place_on_what_was_ordered_by_hand(cloud: World) -> None:
    """It has room, like one that a task ordered."""
    _limit(cloud, nodes_max=0)
    waiting = cloud.submit()
    cloud.at_step(waiting, "waiting_for_capacity")
    _limit(cloud, nodes_max=None, running_tasks_max=10)
    node, _ = cloud.service.nodes.add(cloud.caller, {"provider": "cloud"})
    cloud.at_step(waiting, "running")
    assert cloud.task(waiting["id"])["node_id"] == node["id"]


def test_a_repeated_key_orders_one_node(cloud: World) -> None:
    """The same key answers with the same node; with other content it is refused; another owner's key is another one."""
    add, spec = cloud.service.nodes.add, {"provider": "cloud", "vcpus": 2.0}
    first, made = add(cloud.caller, spec, idempotency_key="k")
    second, again = add(cloud.caller, spec, idempotency_key="k")
    assert (first["id"], made, again) == (second["id"], True, False)
    with pytest.raises(Conflict, match="another request"):
        add(cloud.caller, {"provider": "cloud"}, idempotency_key="k")
    other, made = add(cloud.caller_of("bob"), spec, idempotency_key="k")
    assert made
    assert other["id"] != first["id"]
    assert len(cloud.service.nodes.list(cloud.caller)) == 1


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ({"provider": "clud"}, UsageError, "there is: cloud"),
        ({"provider": "cloud", "size": "xxl"}, UsageError, "xxl was asked for"),
        ({"provider": "cloud", "size": "s", "location": "nbg1"}, UsageError, "offers nothing like that"),
        ({"provider": "cloud", "vcpus": 64.0}, UsageError, "64 are needed"),
    ],
)
def test_what_nobody_sells_is_not_ordered(cloud: World, spec: dict[str, Any], error: Any, said: str) -> None:
    """The error names what is wrong with each offer, and nothing is written."""
    with pytest.raises(error, match=said):
        cloud.service.nodes.add(cloud.caller, spec)
    assert cloud.service.nodes.list(cloud.caller, with_destroyed=True) == []


def test_limits_hold_for_orders_by_hand(cloud: World) -> None:
    """The same as for a task: of the catalogue, of the owner, the budget; nothing half-written stays."""
    for limit, said in (({"nodes_max": 0}, "0 of 0 nodes"), ({"nodes_max": None, "budget": 0.0}, "is used up")):
        _limit(cloud, **limit)
        with pytest.raises(TooMany, match=said):
            cloud.service.nodes.add(cloud.caller, {"provider": "cloud"})
    _limit(cloud, budget=None)
    for _ in range(3):
        cloud.service.nodes.add(cloud.caller, {"provider": "cloud"})
    with pytest.raises(TooMany, match="3 of 3 nodes"):
        cloud.service.nodes.add(cloud.caller, {"provider": "cloud"})
    assert len(cloud.service.nodes.list(cloud.caller)) == 3


def test_what_is_sold_out_is_not_ordered_by_hand(cloud: World) -> None:
    """Nothing of what fits is sold now: a conflict that says so, not a node that fails."""
    cloud.provider.sold_out = {("s", "fsn1")}
    node, _ = cloud.service.nodes.add(cloud.caller, {"provider": "cloud", "size": "s"})
    cloud.run_until(lambda: cloud.node().status == "destroyed", "no other size is taken in its place")
    assert "nothing that fits" in cloud.service.nodes.show(cloud.caller, node["id"])["error"]["message"]
    with pytest.raises(Conflict, match="what fits is sold out"):
        cloud.service.nodes.add(cloud.caller, {"provider": "cloud", "size": "s"})


# --- letting go


def test_a_forced_destroy_fails_what_lives_there_and_waits_for_nothing(cloud: World) -> None:
    """At once, with who did it and why; the server is gone, and what waits is placed elsewhere."""
    task = cloud.submit()
    cloud.at_step(task, "running")
    node_id = cloud.node().id
    cloud.service.nodes.destroy(cloud.caller, node_id, "it misbehaves", force=True)
    took_s = cloud.run_until(lambda: cloud.task(task["id"])["status"] == "failed", "the task failed")
    assert took_s < 2.0
    error = cloud.task(task["id"])["error"]
    assert error["code"] == "node_destroyed"
    assert "it misbehaves" in error["message"]
    cloud.run_until(lambda: cloud.node().status == "destroyed", "the server is gone", limit_s=120.0)
    cloud.finish(task)
    cloud.service.nodes.destroy(cloud.caller, node_id, force=True)  # once more changes nothing
    assert cloud.count(Workspace, Workspace.released_at.is_(None)) == 0


def test_a_drain_that_takes_too_long_is_forced(cloud: World) -> None:
    """Who drained first may still destroy."""
    task = cloud.submit()
    cloud.at_step(task, "running")
    node_id = cloud.node().id
    cloud.service.nodes.destroy(cloud.caller, node_id)
    cloud.node_is("draining")
    cloud.run_for(100.0)
    assert _step(cloud, task) == "running"
    cloud.service.nodes.destroy(cloud.caller, node_id, force=True)
    cloud.run_until(lambda: cloud.node().status == "destroyed", "it is gone", limit_s=60.0)
    assert cloud.finish(task)["error"]["code"] == "node_destroyed"


def test_who_only_had_a_place_on_a_node_that_was_destroyed_is_placed_elsewhere(cloud: World) -> None:
    """Nothing of it lived there yet, so nothing is lost."""
    cloud.plan.boot_s, cloud.plan.session_s = 300.0, 1.0
    task = cloud.submit()
    cloud.at_step(task, "node_agent_ready")
    first = cloud.node().id
    cloud.service.nodes.destroy(cloud.caller, first, force=True)
    done = cloud.finish(task)
    assert done["status"] == "completed"
    assert done["node_id"] != first
    cloud.assert_settled()


def test_a_node_of_somebody_else_does_not_exist(cloud: World) -> None:
    """For every verb."""
    node, _ = cloud.service.nodes.add(cloud.caller, {"provider": "cloud"})
    bob, nodes = cloud.caller_of("bob"), cloud.service.nodes
    for verb in (nodes.show, nodes.drain, nodes.destroy):
        with pytest.raises(NotFound):
            verb(bob, node["id"])
    assert nodes.list(bob) == []


# --- what is shown


def test_the_usage_of_a_month_adds_up(cloud: World) -> None:
    """Nodes are the owner's, parts of them the projects', the rest is idle; another owner sees nothing of it."""
    cloud.plan.session_s = 600.0
    first, second = cloud.submit(project="web"), cloud.submit(project="api")
    cloud.finish(first, second)
    cloud.run_for(60.0)
    _limit(cloud, "web", budget=1000.0)
    found = cloud.service.usage.month(cloud.caller)
    parts = {one["name"]: one for one in found["projects"]}
    assert set(parts) == {"web", "api"}
    assert parts["web"]["cost"] == pytest.approx(cloud.task(first["id"])["usage"]["cost"], abs=1e-5)
    assert parts["web"]["cost"] == pytest.approx(5.0, rel=0.1)
    assert found["cost"] == pytest.approx(parts["web"]["cost"] + parts["api"]["cost"] + found["idle_cost"], abs=1e-4)
    assert found["cost"] == pytest.approx(sum(node["cost"] for node in cloud.service.nodes.list(cloud.caller)), abs=0.1)
    assert found["idle_cost"] > 0
    assert [one["name"] for one in found["providers"]] == ["cloud"]
    assert (parts["web"]["limits"]["budget"], parts["api"]["limits"]["budget"]) == (1000.0, None)
    assert cloud.service.usage.month(cloud.caller, "2020-01")["cost"] == 0
    empty = cloud.service.usage.month(cloud.caller_of("bob"))
    assert (empty["cost"], empty["projects"], empty["providers"]) == (0.0, [], [])
    assert json.dumps(found)


@pytest.mark.parametrize(
    ("project", "values", "field"),
    [
        ("web", {"nodes_max": 1}, "nodes_max"),
        ("", {"budget": -1.0}, "budget"),
        ("", {"budget": float("nan")}, "budget"),
        ("", {"node_workspaces_max": 0}, "node_workspaces_max"),
        ("", {}, "limits"),
    ],
)
def test_limits_that_can_not_be_are_refused(world: World, project: str, values: Any, field: str) -> None:
    """The field is named."""
    with pytest.raises(UsageError) as wrong:
        world.service.usage.set_quota("ada", project, values)
    assert field in wrong.value.fields
    assert world.service.usage.quotas() == []


def test_limits_of_nobody_are_refused(world: World) -> None:
    """A mistyped name must not look like a limit that holds."""
    with pytest.raises(NotFound):
        world.service.usage.set_quota("nobody", "", {"budget": 1.0})
