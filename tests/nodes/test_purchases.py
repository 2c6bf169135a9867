"""Buying servers: once, from who sells them, within the limits; and what each refusal leads to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskflow.db.providers import accounts, unblock
from taskflow.errors import NotFound, OutcomeUnknown, UsageError
from taskflow.nodes.providers.base import AccessRefused, QuotaReached
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, worlds_with

#: A cloud with three offers, told by the same fake that plays the local provider elsewhere.
FILE = """
[[provider]]
name = "local"
kind = "local"

[[provider]]
name = "cloud"
kind = "hetzner"
token_env = "UNUSED"
image = "debian-12"
nodes_max = 3
owner_nodes_max = 2
parallel_max = 1
offer = [
    {size = "s", location = "fsn1", vcpus = 2, memory_mb = 4000, slots = 2, price_per_hour = 0.01},
    {size = "s", location = "nbg1", vcpus = 2, memory_mb = 4000, slots = 2, price_per_hour = 0.01},
    {size = "l", location = "fsn1", vcpus = 8, memory_mb = 16000, slots = 4, price_per_hour = 0.04},
]
"""
CLOUD = {"provider": "cloud"}

MakeCloud = Callable[..., World]


@pytest.fixture
def make_cloud(make_world: MakeWorld, tmp_path: Path) -> MakeCloud:
    """A world with a cloud; keyword arguments are settings."""

    return worlds_with(make_world, tmp_path / "providers.toml", FILE)


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> World:
    """A world with a cloud."""
    return make_cloud()


def _account(world: World) -> Any:
    with world.app.database.read() as tx:
        return accounts(tx)["cloud"]


def test_a_task_that_names_a_provider_gets_a_server_of_its_first_offer(cloud: World) -> None:
    """Size, place and price are the node's; its label names the installation."""
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    node = cloud.node()
    assert (node.provider, node.size, node.location, node.slots) == ("cloud", "s", "fsn1", 2)
    assert (node.vcpus, node.memory_mb, node.price_per_hour) == (2.0, 4000, 0.01)
    assert node.label == f"tf-{cloud.app.tools.installation()}-{node.id.removeprefix('node-')}"
    cloud.assert_settled()


def test_a_task_that_needs_more_gets_a_larger_server(cloud: World) -> None:
    """Size at least as asked; each offer that is too small says so in the stored reasons."""
    task = cloud.finish(cloud.submit(resources={**CLOUD, "vcpus": 4}))
    assert cloud.node().size == "l"
    assert [one["offer"] for one in task["placement"]["rejected"]] == ["@", "s@fsn1", "s@nbg1"]


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"disk_percent": 97.0}, "97 % of its disk is in use"),
        ({"memory_percent": 91.0}, "91 % of its memory is in use"),
        ({"load1": 3.2}, "its load is 1.6 for each core"),
    ],
)
def test_a_server_that_reports_too_much_in_use_is_passed_over(
    cloud: World, measured: dict[str, float], why: str
) -> None:
    """It is warm, and a further one is bought all the same; with room again it is used."""
    cloud.finish(cloud.submit(resources=CLOUD))
    full = cloud.node()
    cloud.agent.measured = measured
    cloud.run_for(2 * cloud.settings.heartbeat_interval_s)
    task = cloud.finish(cloud.submit(resources=CLOUD))
    assert task["placement"]["rejected"][0] == {"node_id": full.id, "reason": why}
    assert sum(cloud.provider.bought.values()) == 2
    cloud.provider.agents[full.label].measured = {}
    cloud.agent.measured = measured
    cloud.run_for(2 * cloud.settings.heartbeat_interval_s)
    assert cloud.finish(cloud.submit(resources=CLOUD))["placement"]["node_id"] == full.id


def test_what_a_workspace_reserved_is_not_given_again(cloud: World) -> None:
    """Two tasks of five cores don't share eight, though there are slots; the second gets a server of its own."""
    cloud.plan.session_s = None
    first, second = (cloud.submit(resources={**CLOUD, "vcpus": 5}) for _ in range(2))
    cloud.at_step(first, "running")
    cloud.at_step(second, "running")
    assert cloud.task(first["id"])["node_id"] != cloud.task(second["id"])["node_id"]
    assert sum(cloud.provider.bought.values()) == 2


def test_two_that_chose_at_the_same_time_don_not_both_get_the_last_cores(cloud: World) -> None:
    """The reservation is counted again in the transaction that makes it."""
    cloud.plan.session_s = None
    holder = cloud.submit(resources={**CLOUD, "vcpus": 3})
    cloud.at_step(holder, "running")
    first, second = (cloud.submit(resources={**CLOUD, "vcpus": 3}) for _ in range(2))

    def overtake(run_id: str, name: str) -> None:
        if run_id == first["run_id"] and name == "performed:node_selection" and not cloud.steps(second["id"]):
            cloud.app.runner.turn(second["run_id"])

    cloud.at_checkpoint = overtake
    cloud.at_step(first, "running")
    cloud.at_step(second, "running")
    nodes = [cloud.task(task["id"])["node_id"] for task in (holder, first, second)]
    assert nodes[0] == nodes[2] != nodes[1]


def test_sold_out_here_is_bought_there(cloud: World) -> None:
    """The next offer that meets the wish is tried under the same label; the first one rests."""
    cloud.provider.sold_out = {("s", "fsn1")}
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    assert (cloud.node().size, cloud.node().location) == ("s", "nbg1")
    assert set(_account(cloud).offers_rest) == {"s@fsn1"}
    before = cloud.provider.calls.count("create")
    cloud.dissolve()
    cloud.finish(cloud.submit(resources=CLOUD))
    assert cloud.provider.calls.count("create") == before + 1  # what rests is not asked for
    cloud.assert_settled()


@pytest.mark.parametrize(
    ("policy", "places"), [({"location_policy": "prefer"}, ["nbg1", "fsn1"]), ({}, ["nbg1", None])]
)
def test_a_preferred_place_is_left_when_it_is_sold_out_and_a_required_one_is_waited_for(
    cloud: World, policy: dict[str, str], places: list[str | None]
) -> None:
    """Bought there while there is something, and elsewhere only by who said that elsewhere will do."""
    wanted = {**CLOUD, "location": "nbg1", **policy}
    tasks = [cloud.submit(resources=wanted)]
    cloud.finish(*tasks)
    assert cloud.node().location == places[0]
    cloud.dissolve()
    cloud.provider.sold_out = {("s", "nbg1")}
    tasks.append(cloud.submit(resources=wanted))
    if places[1] is None:
        cloud.at_step(tasks[1], "waiting_for_capacity")
        assert "create" in cloud.provider.calls and len(cloud.provider.inventory()) == 0
        return
    assert cloud.finish(tasks[1])["status"] == "completed"
    assert (cloud.node().location, cloud.task(tasks[1]["id"])["resources"]) == (places[1], wanted)


def test_a_machine_that_can_not_be_reached_is_passed_over(cloud: World) -> None:
    """Nothing got there, so another one is ordered under the same label instead of waiting for it; it rests."""
    cloud.provider.unreachable = {("s", "fsn1")}
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    assert (cloud.node().size, cloud.node().location) == ("s", "nbg1")
    assert set(_account(cloud).offers_rest) == {"s@fsn1"}
    cloud.assert_settled()


def test_a_machine_that_may_have_heard_of_the_order_is_waited_for(cloud: World) -> None:
    """An earlier call's answer was lost: the label may live there, so it is ordered nowhere else."""
    cloud.provider.creates_once = True
    cloud.provider.lose_answers, cloud.provider.lag_s = 1, 30.0
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: cloud.provider.bought, "the order got there")
    cloud.provider.unreachable = {("s", "fsn1")}
    assert cloud.finish(task)["status"] == "completed"
    assert cloud.provider.calls.count("create") > 1
    assert (cloud.node().location, sum(cloud.provider.bought.values())) == ("fsn1", 1)
    cloud.assert_settled()


def test_the_only_machine_that_would_do_is_tried_until_it_is_reached(cloud: World) -> None:
    """There is no other one to pass on to; when it is back the order goes on."""
    cloud.provider.unreachable = {("l", "fsn1")}
    task = cloud.submit(resources={**CLOUD, "vcpus": 4})
    cloud.run_until(lambda: cloud.provider.calls.count("create") > 2, "it was tried again")
    cloud.provider.unreachable = set()
    assert cloud.finish(task)["status"] == "completed"
    cloud.assert_settled()


def test_sold_out_everywhere_waits_and_is_bought_when_there_is_one(cloud: World) -> None:
    """Nobody fails for a full data centre; who waits is told."""
    cloud.provider.sold_out = {("l", "fsn1")}
    task = cloud.submit(resources={**CLOUD, "vcpus": 4})
    cloud.run_until(lambda: cloud.provider.calls, "it was asked for")
    cloud.at_step(task, "waiting_for_capacity")
    cloud.provider.sold_out = set()
    took_s = cloud.run_until(lambda: cloud.task(task["id"])["finished"], "it runs")
    assert cloud.task(task["id"])["status"] == "completed"
    assert took_s > cloud.settings.offer_rest_s - 60.0
    cloud.assert_settled()


def test_a_full_account_is_left_alone_for_a_while_and_its_words_are_shown(cloud: World) -> None:
    """One request, not one for each task; when it has room the tasks go on by themselves."""
    cloud.provider.refuse = QuotaReached("server limit reached")
    tasks = [cloud.submit(resources=CLOUD) for _ in range(3)]
    cloud.run_for(120.0)
    assert cloud.provider.calls.count("create") == 1
    for task in tasks:
        assert cloud.task(task["id"])["step"] == "waiting_for_capacity"
        assert "server limit reached" in json.dumps(cloud.task(task["id"])["placement"])
    cloud.provider.refuse = None
    cloud.finish(*tasks)
    assert {cloud.task(task["id"])["status"] for task in tasks} == {"completed"}
    cloud.assert_settled()


def test_a_refused_credential_fails_its_task_and_buys_nothing_until_somebody_mended_it(cloud: World) -> None:
    """Nobody waits hours for what a human has to do; after that it goes on at once."""
    cloud.provider.refuse = AccessRefused("the token expired")
    done = cloud.finish(cloud.submit(resources=CLOUD))
    assert (done["status"], done["error"]["code"]) == ("failed", "provider_auth")
    assert "the token expired" in done["error"]["message"]
    cloud.provider.refuse = None
    waiting = cloud.submit(resources=CLOUD)
    cloud.at_step(waiting, "waiting_for_capacity")
    assert cloud.provider.calls.count("create") == 1

    cloud.app.database.write(lambda tx: unblock(tx, "cloud", cloud.service.now()))
    took_s = cloud.run_until(lambda: cloud.task(waiting["id"])["finished"], "it runs")

    assert cloud.task(waiting["id"])["status"] == "completed"
    assert took_s < 2 * cloud.settings.capacity_poll_s


@pytest.mark.parametrize("lag_s", [0.0, 40.0])
def test_a_purchase_whose_answer_was_lost_is_found_and_not_repeated(cloud: World, lag_s: float) -> None:
    """Also where the listing shows a new server only after a while."""
    cloud.provider.lose_answers, cloud.provider.lag_s = 1, lag_s
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    assert list(cloud.provider.bought.values()) == [1]
    cloud.assert_settled()


@pytest.mark.parametrize("place", ["perform:create_server", "performed:create_server", "applied:create_server"])
@pytest.mark.parametrize("lag_s", [0.0, 40.0])
def test_a_worker_that_dies_around_a_purchase_leaves_one_server(
    make_cloud: MakeCloud, place: str, lag_s: float
) -> None:
    """Nobody knows whether it had called: the label is looked up late enough to know."""
    cloud = make_cloud()
    cloud.provider.lag_s = lag_s
    cloud.crash_at(place)
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    assert list(cloud.provider.bought.values()) == [1]
    cloud.assert_settled()


def _once(act: Callable[[], object]) -> Callable[[], object]:
    """Does it the first time that it is called."""
    left = [act]
    return lambda: left.pop()() if left else None


def test_a_worker_that_pauses_between_its_look_up_and_its_purchase_buys_nothing(cloud: World) -> None:
    """While it slept another one looked late enough, found nothing, and bought; this cloud sells a name twice."""

    def pause() -> None:
        cloud.start_worker()
        cloud.run_until(lambda: cloud.provider.bought, "another worker bought")

    cloud.provider.after_look_up = _once(pause)
    assert cloud.finish(cloud.submit(resources=CLOUD))["status"] == "completed"
    assert list(cloud.provider.bought.values()) == [1]
    assert "superseded" in [verdict for _, verdict in cloud.turns]
    cloud.assert_settled()


def test_a_node_that_is_cancelled_during_the_look_up_is_not_bought(cloud: World) -> None:
    """Nobody wants it any more when the call would begin."""
    cloud.provider.after_look_up = _once(lambda: cloud.service.nodes.drain(cloud.caller, cloud.node().id))
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: "destroy" in cloud.provider.calls, "it is given up")
    assert cloud.provider.calls[0] == "destroy"
    assert cloud.finish(task)["status"] == "completed"  # on another one
    assert list(cloud.provider.bought.values()) == [1]


def test_a_look_up_that_took_long_is_done_again_before_it_is_bought(make_cloud: MakeCloud) -> None:
    """Else a call could be under way when another worker looks for what it made, and both would buy."""
    cloud = make_cloud(lease_s=50.0)  # nobody renews it in virtual time
    cloud.provider.after_look_up = _once(lambda: cloud.travel.shift(cloud.settings.provider_settle_s / 2 + 1))
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: cloud.provider.bought, "it is bought")
    assert time.time() - cloud.node().intent_at < 1
    assert cloud.finish(task)["status"] == "completed"
    assert list(cloud.provider.bought.values()) == [1]


def test_look_ups_that_are_always_slow_hold_no_purchase_up(make_cloud: MakeCloud) -> None:
    """Each takes a third of the time to settle, also after a call without an answer: it counts for itself alone."""
    cloud = make_cloud(lease_s=50.0)  # nobody renews it in virtual time
    cloud.provider.after_look_up = lambda: cloud.travel.shift(cloud.settings.provider_settle_s / 3)
    cloud.provider.refuse = OutcomeUnknown("no answer")
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: cloud.provider.calls.count("create"), "a call was lost on its way")
    cloud.provider.refuse = None
    assert cloud.finish(task)["status"] == "completed"
    assert list(cloud.provider.bought.values()) == [1]


def test_a_node_given_up_during_its_purchase_leaves_no_server(cloud: World) -> None:
    """The answer was lost, the listing lags, somebody destroys the node: it is gone only when that is sure."""
    cloud.provider.lose_answers, cloud.provider.lag_s = 1, 40.0
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: cloud.provider.bought, "it was bought")
    cloud.service.nodes.drain(cloud.caller, cloud.node().id)
    cloud.cancel(task["id"])
    cloud.node_is("destroyed")
    assert cloud.provider.inventory() == []


def test_a_server_that_is_not_listed_yet_is_not_taken_for_gone(cloud: World) -> None:
    """Bought, answered, given up at once: the listing that lacks it is behind, and the node waits to be sure."""
    cloud.provider.lag_s = 40.0
    task = cloud.submit(resources=CLOUD)
    cloud.run_until(lambda: cloud.node() is not None and cloud.node().server_id, "it was bought")
    cloud.service.nodes.drain(cloud.caller, cloud.node().id)
    cloud.cancel(task["id"])
    cloud.node_is("destroyed")
    assert cloud.provider.inventory() == []


def test_limits_of_owner_and_account_hold(make_cloud: MakeCloud) -> None:
    """Two nodes of an owner, three of everybody; the sixth task of one owner waits and says why."""
    cloud = make_cloud(admission_wait_s=86_400.0)
    cloud.plan.session_s = None
    mine = [cloud.submit(resources=CLOUD) for _ in range(5)]
    cloud.run_for(600.0)
    assert len(cloud.provider.inventory()) == 2
    waits = [task for task in mine if cloud.task(task["id"])["step"] == "waiting_for_capacity"]
    assert len(waits) == 1
    assert "2 of 2 nodes of yours exist" in json.dumps(cloud.task(waits[0]["id"])["placement"])
    other = cloud.caller_of("bob")
    spec = {"repository": "/srv/repo", "command": ["make"], "time_limit_s": 600.0, "resources": CLOUD}
    for _ in range(4):
        cloud.service.tasks.submit(other, spec)
    cloud.run_for(600.0)
    assert len(cloud.provider.inventory()) == 3


def test_what_nobody_sells_is_refused_at_once(cloud: World) -> None:
    """Nobody waits two hours for a size that does not exist."""
    done = cloud.finish(cloud.submit(resources={**CLOUD, "vcpus": 64}))
    assert (done["status"], done["error"]["code"]) == ("failed", "node_unusable")
    assert "8 vcpus, 64 are needed" in json.dumps(done["error"]["detail"])
    for said in (done["error"]["message"], cloud.why(done["id"])["summary"]):
        assert "8 vcpus, 64 are needed" in said


def test_the_list_of_providers_says_what_is_for_sale_and_why_not(cloud: World) -> None:
    """What a user sees before they ask for something, and while they wait."""
    cloud.provider.sold_out = {("s", "fsn1")}
    cloud.finish(cloud.submit(resources=CLOUD))
    cloud.provider.refuse = QuotaReached("server limit reached")
    waiting = cloud.submit(resources={**CLOUD, "vcpus": 4})
    cloud.at_step(waiting, "waiting_for_capacity")
    cloud.run_for(30.0)
    listed = {one["name"]: one for one in cloud.service.providers.for_sale(cloud.caller)}
    assert list(listed) == ["local", "cloud"]
    assert "server limit reached" in listed["cloud"]["closed"]
    assert [offer["sold_out_until"] is not None for offer in listed["cloud"]["offers"]] == [True, False, False]
    assert (listed["cloud"]["nodes_max"], listed["local"]["closed"]) == (2, None)


def test_a_check_that_succeeds_lets_those_who_wait_go_on(cloud: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The credential was mended: nobody waits for the rest of the block. One that is still refused is said to be."""
    cloud.provider.refuse = AccessRefused("the token expired")
    cloud.finish(cloud.submit(resources=CLOUD))
    waiting = cloud.submit(resources=CLOUD)
    cloud.at_step(waiting, "waiting_for_capacity")

    def refused() -> str:
        raise AccessRefused("the token expired")

    with monkeypatch.context() as still:
        still.setattr(cloud.provider, "check", refused)
        said = cloud.service.providers.check("cloud")
        assert said == [{"provider": "cloud", "ok": False, "says": "the token expired", "code": "provider_auth"}]
    assert _account(cloud).blocked is not None

    cloud.provider.refuse = None
    assert cloud.service.providers.check("cloud")[0]["ok"]
    assert cloud.finish(waiting)["status"] == "completed"


def test_a_provider_that_is_not_in_the_catalogue_is_an_error_of_who_asks(cloud: World) -> None:
    """It names those that are."""
    with pytest.raises(NotFound) as wrong:
        cloud.service.providers.check("clud")
    assert "local, cloud" in wrong.value.message


def test_doctor_says_that_a_credential_is_refused_and_changes_nothing(
    cloud: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking is not mending: a block stays until somebody checks on purpose."""
    cloud.provider.refuse = AccessRefused("the token expired")
    cloud.finish(cloud.submit(resources=CLOUD))
    blocked = _account(cloud)
    said = {one["check"]: one for one in cloud.service.health.doctor()}
    assert said["provider cloud"]["state"] == "ok"
    assert _account(cloud) == blocked

    def missing() -> str:
        raise UsageError("provider cloud has no token", code="provider_token")

    monkeypatch.setattr(cloud.provider, "check", missing)
    said = {one["check"]: one for one in cloud.service.health.doctor()}
    assert (said["provider cloud"]["state"], said["provider cloud"]["says"]) == ("error", "provider cloud has no token")


def _boot(world: World, stage: str) -> None:
    node_id = world.node().id
    token = world.app.tools.vault.derive_token("bootstrap", node_id)
    caller = world.service.accounts.authenticate(token, "bootstrap")
    world.service.callbacks.node_boot_stage(caller, node_id, stage)


def test_an_agent_that_does_not_come_up_is_told_of_with_how_far_its_servers_boot_was(cloud: World) -> None:
    """Whether the server never booted or could not fetch or start the agent are different things to look for."""
    cloud.plan.boot_s = None
    task = cloud.submit(resources=CLOUD)
    cloud.at_step(task, "node_agent_ready")
    assert "its server has not said yet that it booted" in cloud.why(task["id"])["summary"]
    cloud.run_for(12)
    _boot(cloud, "agent_fetched")
    assert "last seen at boot stage agent_fetched, 12 s after the server was bought" in cloud.why(task["id"])["summary"]
    said = cloud.finish(task)["error"]["message"]
    assert "the node's agent did not come up within 900 s" in said
    assert "last seen at boot stage agent_fetched, 12 s after the server was bought" in said


def test_a_server_that_never_booted_is_told_of(cloud: World) -> None:
    """Nothing was heard of it at all."""
    cloud.plan.boot_s = None
    assert "its server never said that it booted" in cloud.finish(cloud.submit(resources=CLOUD))["error"]["message"]
