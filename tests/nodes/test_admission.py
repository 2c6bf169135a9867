"""Who gets what became free: priority with ageing, nobody starves, nothing is promised twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from taskflow.db.models import Node
from taskflow.nodes.admission import Situation, assign
from taskflow.nodes.purchase import Market
from taskflow.nodes.selector import Candidate, Limits, Wish
from taskflow.nodes.sharing import Held, to_hand_over
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, worlds_with

FILE = """
[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "debian-12"
nodes_max = 3
parallel_max = 3
offer = [{size = "s", location = "fsn1", vcpus = 4, memory_mb = 8000, slots = 3}]
"""
SPEC = {"repository": "/srv/repo", "command": ["make"], "time_limit_s": 600.0}
LIMITS = Limits(60.0, 2.0)


@pytest.fixture
def make_cloud(make_world: MakeWorld, tmp_path: Path) -> Callable[..., World]:
    """A world whose only provider sells three nodes of three slots, whoever asks."""

    return worlds_with(make_world, tmp_path / "providers.toml", FILE)


def node(name: str, live: int = 0, **more: Any) -> Candidate:
    """A node with three slots."""
    return Candidate(name, "active", 3, live, 1.0, **more)


def situation(*nodes: Candidate) -> Situation:
    """Nothing can be bought."""
    return Situation(nodes, Market((), {}), LIMITS)


def test_each_place_is_given_once_and_in_order() -> None:
    """Two free slots, three who wait: the first two."""
    choices = assign([Wish()] * 3, situation(node("a", live=2), node("b", live=2)))
    assert [choice.action for choice in choices] == ["use", "use", "wait"]
    assert {choice.node_id for choice in choices[:2]} == {"a", "b"}


def test_who_needs_a_whole_node_is_not_overtaken_by_small_ones_for_ever() -> None:
    """A node that will do for the first in line, once it is empty, is kept from those behind; another one is not."""
    busy = node("busy", live=1, vcpus=4.0, reserved_vcpus=1.0)
    small = node("small", vcpus=2.0)
    choices = assign([Wish(vcpus=4), Wish(vcpus=1), Wish(vcpus=1)], situation(busy, small))
    assert [choice.node_id for choice in choices] == [None, "small", "small"]


def test_what_was_given_is_reserved_for_the_next() -> None:
    """Cores and memory are counted with those who are on their way."""
    choices = assign([Wish(vcpus=3), Wish(vcpus=3)], situation(node("a", vcpus=4.0)))
    assert [choice.action for choice in choices] == ["use", "wait"]


def held(owner: str, number: int, live: int = 1, *, leaving: bool = False) -> Held:
    """A node of ``owner``."""
    return Held(f"{owner}-{number}", f"run-{owner}-{number}", owner, live, leaving)


@pytest.mark.parametrize(
    ("nodes", "waiting", "chosen"),
    [
        ([held("a", 1), held("a", 2, live=0), held("a", 3)], {"b": 9.0, "a": 1.0}, "a-2"),
        ([held("a", 1), held("b", 1), held("c", 1)], {"b": 9.0, "a": 1.0}, None),
        ([held("a", 1), held("a", 2, live=0), held("a", 3)], {"b": 1.0, "a": 9.0}, "a-2"),
        ([held("a", 1), held("a", 2), held("b", 1)], {"b": 1.0, "a": 9.0}, "a-1"),
        ([held("a", 1), held("a", 2), held("b", 1)], {"a": 1.0, "b": 9.0}, None),
        ([held("a", 1)], {"b": 1.0, "a": 9.0}, "a-1"),
        ([held("a", 1)], {"b": 1.0}, "a-1"),
        ([held("a", 1), held("a", 2), held("a", 3, leaving=True)], {"b": 1.0}, None),
        ([held("a", 1), held("b", 1)], {"c": 1.0}, "b-1"),
        ([held("a", 1), held("a", 2)], {}, None),
    ],
)
def test_a_full_account_is_shared(nodes: list[Held], waiting: dict[str, float], chosen: str | None) -> None:
    """The emptiest node of who has most goes, one at a time, and only for who has fewer."""
    found = to_hand_over(nodes, waiting)
    assert (None if found is None else found.node_id) == chosen


def test_forty_tasks_of_two_owners_start_in_the_order_of_their_ranks_and_nobody_starves(
    make_cloud: Callable[..., World],
) -> None:
    """Three nodes of three slots. Nobody is overtaken by a worse claim of the same owner; and nobody waits for the other
    owner's last task, though that one came with twenty before the second came at all."""
    world = make_cloud(priority_ageing_s=60.0, capacity_poll_s=3000.0, admission_wait_s=86_400.0, node_warm_s=60.0)
    world.plan.session_s = 90.0
    ada, bob = world.caller_of("ada"), world.caller_of("bob")
    ranks: dict[str, tuple[str, float]] = {}

    def submit(caller: Any, owner: str, priority: int) -> None:
        task = world.service.tasks.submit(caller, {**SPEC, "priority": priority})[0]
        created = world.service.now()
        ranks[task["id"]] = (owner, created - 60.0 * priority)

    for number in range(20):
        submit(ada, "ada", 5 if number % 2 else 0)
        world.run_for(2.0)
    for number in range(20):
        submit(bob, "bob", 5 if number % 2 else 0)
        world.run_for(2.0)
    callers = {"ada": ada, "bob": bob}

    def read(task_id: str) -> dict[str, Any]:
        return world.service.tasks.get(callers[ranks[task_id][0]], task_id)

    world.run_until(lambda: all(read(task_id)["finished"] for task_id in ranks), "all forty end")
    tasks = {task_id: read(task_id) for task_id in ranks}

    assert {task["status"] for task in tasks.values()} == {"completed"}
    waits = {key: _waits(world, callers[ranks[key][0]], key) for key in ranks}
    overtaken = [
        (late, early)
        for early, late in itertools.permutations(ranks, 2)
        if ranks[early][0] == ranks[late][0] and ranks[early][1] > ranks[late][1]
        for left in (end for _, end in waits[early])
        if any(begin < left and end > left + 1.0 for begin, end in waits[late])
    ]
    assert overtaken == []
    assert sum(len(one) for one in waits.values()) >= 20
    first_of_bob = min(task["started_at"] for key, task in tasks.items() if ranks[key][0] == "bob")
    last_of_ada = max(task["started_at"] for key, task in tasks.items() if ranks[key][0] == "ada")
    assert first_of_bob < last_of_ada
    assert len(world.provider.inventory()) <= 3
    assert max(agent.most_workspaces for agent in world.provider.agents.values()) <= 3


def _waits(world: World, caller: Any, task_id: str) -> list[tuple[float, float]]:
    """When the task stood in the line: (from, until)."""
    found, begin = list[tuple[float, float]](), None
    for event in world.service.events.of_task(caller, task_id, limit=1000):
        if event["kind"] != "step_entered":
            continue
        at = datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()
        if begin is not None:
            found.append((begin, at))
        begin = at if event["step"] == "waiting_for_capacity" else None
    return found


def test_a_cancelled_waiter_leaves_its_place_to_the_next_at_once(make_cloud: Callable[..., World]) -> None:
    """Also one whose place was kept on a node that is coming."""
    world = make_cloud(capacity_poll_s=3000.0)
    world.plan.boot_s = 300.0
    tasks = [world.submit() for _ in range(11)]
    world.run_for(60.0)
    waiting = [task for task in tasks if world.task(task["id"])["step"] == "waiting_for_capacity"]
    assert len(waiting) == 2
    world.cancel(tasks[0]["id"])
    world.run_for(5.0)
    steps = [world.task(task["id"])["step"] for task in waiting]
    assert steps.count("waiting_for_capacity") == 1
    world.finish(*tasks)
    world.assert_settled()


def test_as_many_nodes_are_ordered_as_those_who_wait_need(make_cloud: Callable[..., World]) -> None:
    """Nine tasks at once: three nodes that come at the same time, each promised to three."""
    world = make_cloud(capacity_poll_s=3000.0)
    world.plan.session_s = None
    tasks = [world.submit() for _ in range(9)]
    took_s = world.run_until(lambda: all(world.task(t["id"])["step"] == "running" for t in tasks), "all run")
    assert len(world.provider.inventory()) == 3
    assert took_s < 3 * (world.plan.boot_s or 0.0)


def test_who_waited_long_enough_goes_before_who_is_more_important(make_cloud: Callable[..., World]) -> None:
    """One point of priority is worth a minute here: after six minutes five points are not enough."""
    world = make_cloud(capacity_poll_s=3000.0, priority_ageing_s=60.0)
    world.plan.session_s = None
    busy = [world.submit() for _ in range(9)]
    world.run_until(lambda: all(world.task(task["id"])["step"] == "running" for task in busy), "all slots are taken")
    old = world.submit(priority=0)
    world.run_for(360.0)
    new = world.submit(priority=5)
    world.run_for(5.0)
    sessions = [(agent, key) for agent in world.provider.agents.values() for key in agent.sessions]
    agent, session_id = sessions[0]

    agent.finish_session(session_id)

    world.run_until(lambda: world.task(old["id"])["step"] == "running", "the old one runs", limit_s=60.0)
    assert world.task(new["id"])["step"] == "waiting_for_capacity"


def test_a_server_that_can_not_be_destroyed_keeps_nobody_from_a_full_account(make_cloud: Callable[..., World]) -> None:
    """It counts against the limit, as it may still be paid for: another node of its owner's is handed over."""
    world = make_cloud()
    world.plan.session_s = None
    tasks = [world.submit() for _ in range(9)]
    world.run_until(lambda: {world.task(task["id"])["step"] for task in tasks} == {"running"}, "three nodes are full")
    stuck = world.node().id
    with world.app.database.engine.begin() as tx:
        tx.execute(update(Node).where(Node.id == stuck).values(status="error"))
    world.service.tasks.submit(world.caller_of("bob"), SPEC)
    world.run_for(60.0)
    shown = world.service.nodes.list(world.caller)
    assert sorted(node["status"] for node in shown) == ["active", "draining", "error"]
