"""Money and time are summed right from rows: over borders of months, and for what still stands."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import select, update

from taskflow.db.models import Node, OutboxRow, Quota, Workspace
from taskflow.db.nodes import NewNode, create_node_effect, get_node, lock_owner
from taskflow.db.tasks import set_fields_effect
from taskflow.db.usage import (
    LIMITS_CHANGED,
    NOTHING,
    Use,
    month_at,
    month_named,
    node_use,
    nodes_held,
    places_held,
    quotas_of,
    use_of_nodes,
    use_of_task,
    use_of_tasks,
    write_quota,
)
from taskflow.db.workspaces import reserve_workspace_effect
from taskflow.engine.outcomes import Refused
from taskflow.ids import NodeId, RunId, TaskId, WorkspaceId
from taskflow.nodes.limits import NO_LIMITS, place_effect, purchase_guard, standing
from taskflow.nodes.machine import new_node_run
from tests.db.conftest import OWNER, World, race

HOUR = 3600.0
DAY = 24 * HOUR
NOVEMBER, DECEMBER = month_named("2026-11"), month_named("2026-12")
MIDNIGHT = NOVEMBER.ends_at


@pytest.mark.parametrize(
    ("name", "days"), [("2026-11", 30), ("2026-12", 31), ("2028-02", 29), ("2100-02", 28), ("2024-02", 29)]
)
def test_a_month_is_a_month_of_the_calendar_in_utc(name: str, days: int) -> None:
    """Its ends belong to one month each."""
    month = month_named(name)
    assert month.ends_at - month.begins_at == days * DAY
    assert datetime.fromtimestamp(month.begins_at, timezone.utc).isoformat() == f"{name}-01T00:00:00+00:00"
    assert month_at(month.begins_at) == month_at(month.ends_at - 0.001) == month
    assert month_at(month.ends_at).name != name


@pytest.mark.parametrize("name", ["2026-13", "2026", "", "2026-11-01", "november"])
def test_what_is_no_month_is_refused(name: str) -> None:
    """With the error that the caller expects."""
    with pytest.raises(ValueError, match=r"does not match format|unconverted data"):
        month_named(name)


def _node(world: World, name: str, **columns: Any) -> str:
    world.node(name)
    values = {"server_id": name, "price_per_hour": 1.0, "vcpus": 8.0, **columns}
    world.write(lambda tx: tx.execute(update(Node).where(Node.id == name).values(**values)))
    return name


def _place(
    world: World, node: str, number: int, begin: float, end: float | None, *, vcpus: float = 0.0, **task: Any
) -> str:
    task_id = world.task(f"task-{number}", "delegated", run_id=f"run-{number}", node_id=node, **task)
    run = world.run(f"run-{number}", task_id)
    world.write(
        reserve_workspace_effect(
            workspace_id=WorkspaceId(f"ws-{number}"), task_id=TaskId(task_id), run=run, node_id=node,
            callback_token_hash=f"hash-{number}", now=begin, vcpus=vcpus,
        )
    )  # fmt: skip
    if end is not None:
        world.write(
            lambda tx: tx.execute(
                update(Workspace).where(Workspace.run_id == run.id).values(status="released", released_at=end)
            )
        )
    return task_id


def _read(world: World, query: Any, *args: Any) -> Any:
    with world.database.read() as tx:
        return query(tx, *args)


def _is(use: Use, **expected: float) -> None:
    assert {name: getattr(use, name) for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_node_that_stood_over_midnight_costs_in_both_months(world: World) -> None:
    """Each month has its part, and together they are what the node cost."""
    _node(world, "n", bought_at=MIDNIGHT - 2 * HOUR, destroyed_at=MIDNIGHT + HOUR, status="destroyed")
    now = MIDNIGHT + DAY
    _is(_read(world, use_of_nodes, OWNER, NOVEMBER, now)["local"], seconds=2 * HOUR, cost=2.0, count=1)
    _is(_read(world, use_of_nodes, OWNER, DECEMBER, now)["local"], seconds=HOUR, cost=1.0, vcpu_seconds=8 * HOUR)
    _is(node_use(_read(world, get_node, "n"), now), seconds=3 * HOUR, cost=3.0)
    assert _read(world, use_of_nodes, OWNER, month_named("2026-10"), now) == {}
    assert _read(world, use_of_nodes, OWNER, month_named("2027-01"), now) == {}


def test_a_node_that_stands_costs_until_now_and_not_longer(world: World) -> None:
    """Nothing speculative: not the rest of the month, and nothing of months to come."""
    _node(world, "n", bought_at=MIDNIGHT - HOUR)
    _is(_read(world, use_of_nodes, OWNER, NOVEMBER, MIDNIGHT - HOUR / 2)["local"], cost=0.5)
    _is(_read(world, use_of_nodes, OWNER, NOVEMBER, MIDNIGHT + 5 * HOUR)["local"], cost=1.0)
    _is(_read(world, use_of_nodes, OWNER, DECEMBER, MIDNIGHT + 5 * HOUR)["local"], cost=5.0)
    assert _read(world, use_of_nodes, OWNER, DECEMBER, MIDNIGHT - HOUR / 2) == {}


def test_what_was_never_bought_costs_nothing(world: World) -> None:
    """A node for which nothing was sold; one whose purchase was not timed counts from its beginning."""
    _node(world, "never", server_id=None, created_at=MIDNIGHT - HOUR)
    assert _read(world, use_of_nodes, OWNER, NOVEMBER, MIDNIGHT) == {}
    assert node_use(_read(world, get_node, "never"), MIDNIGHT) == NOTHING
    _node(world, "untimed", created_at=MIDNIGHT - HOUR)
    _is(_read(world, use_of_nodes, OWNER, NOVEMBER, MIDNIGHT)["local"], cost=1.0)
    _is(node_use(_read(world, get_node, "untimed"), MIDNIGHT), cost=1.0)


def test_a_task_has_the_price_of_its_slot_and_the_cores_that_it_reserved(world: World) -> None:
    """Or a slot's cores; each month its part, each project its own, each run added to the task's."""
    node = _node(world, "n", bought_at=MIDNIGHT - DAY, slots=4)
    _place(world, node, 1, MIDNIGHT - HOUR, MIDNIGHT + HOUR, project="web")
    _place(world, node, 2, MIDNIGHT - HOUR, None, vcpus=5.0)
    now = MIDNIGHT + 2 * HOUR
    november = _read(world, use_of_tasks, OWNER, NOVEMBER, now)
    december = _read(world, use_of_tasks, OWNER, DECEMBER, now)
    _is(november["local", "web"], seconds=HOUR, vcpu_seconds=2 * HOUR, cost=0.25, count=1)
    _is(november["local", ""], seconds=HOUR, vcpu_seconds=5 * HOUR, cost=0.25, count=1)
    _is(december["local", "web"], seconds=HOUR, vcpu_seconds=2 * HOUR, cost=0.25)
    _is(december["local", ""], seconds=2 * HOUR, vcpu_seconds=10 * HOUR, cost=0.5)
    _is(_read(world, use_of_task, "task-1", now), seconds=2 * HOUR, cost=0.5, vcpu_seconds=4 * HOUR)
    _is(_read(world, use_of_task, "task-2", now), seconds=3 * HOUR, cost=0.75)
    assert _read(world, use_of_task, "task-none", now) == NOTHING


def test_a_place_costs_no_longer_than_its_node_stood(world: World) -> None:
    """A cleanup that could not reach a destroyed node is not paid for: the parts never pass the whole."""
    node = _node(world, "n", bought_at=MIDNIGHT - DAY, slots=1)
    _place(world, node, 1, MIDNIGHT - DAY, None)
    world.write(
        lambda tx: tx.execute(
            update(Node).where(Node.id == node).values(status="destroyed", destroyed_at=MIDNIGHT - HOUR)
        )
    )
    now = MIDNIGHT + DAY
    part, whole = (
        _read(world, use_of_tasks, OWNER, NOVEMBER, now)["local", ""],
        _read(world, use_of_nodes, OWNER, NOVEMBER, now)["local"],
    )
    _is(part, cost=23.0)
    _is(whole, cost=23.0)
    assert _read(world, use_of_tasks, OWNER, DECEMBER, now) == {}


def test_another_owner_pays_for_nothing_of_it(world: World) -> None:
    """Every sum carries the owner."""
    node = _node(world, "n", bought_at=MIDNIGHT - HOUR)
    _place(world, node, 1, MIDNIGHT - HOUR, None)
    for query in (use_of_nodes, use_of_tasks):
        assert _read(world, query, "somebody", NOVEMBER, MIDNIGHT) == {}
    assert _read(world, nodes_held, "somebody") == 0
    assert _read(world, places_held, "somebody") == {}


def _quota(world: World, project: str = "", **values: Any) -> None:
    world.write(lambda tx: write_quota(tx, OWNER, project, values, 1.0))


def test_limits_that_are_not_named_stay_and_a_row_without_any_goes(world: World) -> None:
    """Each change is promised to whoever waits."""
    _quota(world, nodes_max=3)
    _quota(world, budget=50.0)
    row = _read(world, quotas_of, OWNER)[0]
    assert (row.nodes_max, row.budget, row.vcpu_hours_max) == (3, 50.0, None)
    _quota(world, nodes_max=None, budget=None)
    assert _read(world, quotas_of, OWNER) == []
    with world.database.read() as tx:
        assert [row.kind for row in tx.execute(select(OutboxRow.kind))] == [LIMITS_CHANGED] * 3
        assert tx.execute(select(Quota.owner_id)).all() == []


def test_who_has_no_limits_is_not_counted(world: World) -> None:
    """And nothing is refused."""
    assert _read(world, standing, OWNER, MIDNIGHT) is NO_LIMITS
    assert NO_LIMITS.no_place("web") is None
    assert NO_LIMITS.no_room("web", "n") is None
    assert NO_LIMITS.no_purchase("web", 1.0) is None


def test_a_used_up_budget_buys_again_in_the_next_month(world: World) -> None:
    """Of the owner all that their nodes cost, of a project the part of its tasks; what costs nothing may be had."""
    node = _node(world, "n", bought_at=MIDNIGHT - 10 * HOUR, destroyed_at=MIDNIGHT - HOUR, slots=2, status="active")
    _place(world, node, 1, MIDNIGHT - 3 * HOUR, None, project="web")
    _quota(world, budget=9.0)
    _quota(world, "web", budget=1.01)
    before, after = (_read(world, standing, OWNER, at) for at in (MIDNIGHT - 1.0, MIDNIGHT + 1.0))
    assert before.no_purchase("", 0.5) == "the budget of 9.00 for 2026-11 is used up: 9.00"
    assert before.no_purchase("", 0.0) is None
    assert before.no_place("web") is None
    assert after.no_purchase("web", 0.5) is None
    _quota(world, budget=100.0)
    _quota(world, "web", budget=1.0)
    found = _read(world, standing, OWNER, MIDNIGHT - 1.0)
    assert found.no_purchase("", 0.5) is None
    assert found.no_purchase("web", 0.5) == "the budget of 1.00 of project web for 2026-11 is used up: 1.00"


def test_vcpu_hours_that_are_used_up_leave_no_place(world: World) -> None:
    """Eight cores in four slots: an hour of two tasks is four vCPU hours."""
    node = _node(world, "n", bought_at=MIDNIGHT - DAY, slots=4)
    for number in (1, 2):
        _place(world, node, number, MIDNIGHT - 2 * HOUR, MIDNIGHT - HOUR, project="web" if number == 1 else "")
    _quota(world, vcpu_hours_max=4.0)
    _quota(world, "web", vcpu_hours_max=2.5)
    found = _read(world, standing, OWNER, MIDNIGHT - 1.0)
    assert found.no_place("") == "the 4 vCPU hours for 2026-11 are used up: 4.0"
    assert found.no_purchase("", 1.0) is None
    _quota(world, vcpu_hours_max=4.1)
    assert _read(world, standing, OWNER, MIDNIGHT - 1.0).no_place("web") is None
    _quota(world, "web", vcpu_hours_max=2.0)
    said = _read(world, standing, OWNER, MIDNIGHT - 1.0)
    assert said.no_place("web") == "the 2 vCPU hours of project web for 2026-11 are used up: 2.0"
    assert said.no_place("other") is None


def test_places_that_are_kept_count_like_those_that_are_taken(world: World) -> None:
    """A task on its way runs as far as limits go; a workspace that is not released counts; one's own place does not."""
    node = _node(world, "n", bought_at=1.0)
    _place(world, node, 1, 2.0, None, project="web")
    _place(world, node, 2, 2.0, 3.0, project="web")
    world.task("task-3", node_id=node, project="web")
    world.task("task-4", project="web")
    _quota(world, running_tasks_max=2, node_workspaces_max=3)
    found = _read(world, standing, OWNER, 5.0)
    assert found.no_place("web") == "2 of 2 tasks of yours run"
    assert found.no_room("web", node) is None
    assert found.taken("web", node).no_room("", node) == "3 of 3 workspaces of yours are on it"
    with world.database.read() as tx:
        assert standing(tx, OWNER, 5.0, but="task-3").no_place("web") is None


def test_a_race_for_the_last_place_of_a_limit_gives_it_once(world: World) -> None:
    """Counted under the owner's lock in the transaction that keeps the place."""
    node = _node(world, "n", bought_at=1.0)
    _quota(world, running_tasks_max=2)
    for number in range(6):
        world.task(f"task-{number}", run_id=f"run-{number}")

    def keep(number: int) -> str:
        def work(tx: Any) -> None:
            place_effect(OWNER, "", f"task-{number}", node, 5.0)(tx)
            set_fields_effect(f"task-{number}", run_id=f"run-{number}", now=5.0, node_id=node)(tx)

        world.write(work)
        return "kept"

    answers = race(keep, 6)
    assert answers.count("kept") == 2
    assert {str(one) for one in answers if isinstance(one, Refused)} == {"2 of 2 tasks of yours run"}


@pytest.mark.parametrize("by", ["nodes", "budget"])
def test_a_race_of_purchases_for_the_last_node_makes_one(world: World, by: str) -> None:
    """Whoever counts second sees what the first wrote. A budget that is not used up allows both: nothing is guessed."""
    _node(world, "n", bought_at=MIDNIGHT - HOUR)
    _quota(world, **({"nodes_max": 2} if by == "nodes" else {"budget": 1.5}))

    def buy(number: int) -> str:
        node_id = NodeId(f"node-{number}")
        node = NewNode(
            id=node_id, run=new_node_run(RunId(f"run-node-{number}"), node_id, OWNER, MIDNIGHT), label=node_id,
            provider="cloud", slots=1, callback_token_hash=f"hash-{number}", price_per_hour=1.0,
        )  # fmt: skip

        def guard(tx: Any) -> None:
            lock_owner(tx, OWNER)
            purchase_guard(OWNER, 1.0, MIDNIGHT)(tx)

        world.write(lambda tx: create_node_effect(node, guard, now=MIDNIGHT)(tx))
        return "made"

    answers = race(buy, 3)
    assert answers.count("made") == (1 if by == "nodes" else 3)
    if by == "nodes":
        refused = {str(one) for one in answers if isinstance(one, Refused)}
        assert refused == {"2 of 2 nodes of yours exist, which is the limit that was set"}
