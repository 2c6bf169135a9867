"""A small fleet in every run of the tests; the large ones are a command of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.run import Fleet, run_fleet
from tests.support.fake_cloud import FakeServer
from tests.support.fake_cloud.ledger import Refusal
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("provider", "chaos"), [("fake-hetzner", False), ("fake-digitalocean", True)])
def test_servers_are_bought_once_filled_to_their_slots_and_given_back(
    tmp_path: Path, provider: str, chaos: bool
) -> None:
    """Real processes and real HTTP on both sides; what is counted are the cloud's own books."""
    report = run_fleet(tmp_path, tasks=40, provider=provider, seed=1, chaos=chaos)
    bought = report.pop("servers_created")
    assert bought == report.pop("servers_destroyed") > 1
    assert report == {
        "tasks": 40, "completed": 40, "leaked": 0, "double_created": 0, "over_capacity": 0, "faults": 0,
    }  # fmt: skip


def test_a_worker_killed_around_its_purchase_leaves_one_server_for_its_node(tmp_path: Path) -> None:
    """SIGKILL before the cloud heard of the order, when it has sold and not answered, and when the answer is on its way.

    At a cloud that would sell a second server of the same name.
    """
    with Fleet(tmp_path, "fake-digitalocean", seed=1) as fleet:
        ledger, due = fleet.ledger, list[str]()

        def kill_at(moment: str) -> bool:
            here = due == [moment]
            if here:
                due.clear()
                fleet.kill_the_worker()
            return here

        def asked() -> None:
            if kill_at("before"):
                raise Refusal("outage")  # it never got there

        def sold(server: FakeServer) -> None:
            fleet.servers.bought(server)
            kill_at("during")

        ledger.on_asked, ledger.on_created, ledger.on_answered = asked, sold, lambda: kill_at("after")
        for number, moment in enumerate(("before", "during", "after")):
            due.append(moment)
            fleet.submit(number)
            wait_until(
                lambda: fleet.open_tasks() == 0, f"the task whose worker died {moment}", timeout_s=90, poll_s=0.5
            )
            fleet.drain()
            assert not due, f"no worker died {moment}"
            assert (ledger.creates, ledger.bought_twice(), ledger.alive()) == (number + 1, [], [])
