"""The provider of machines that are there already, against real SSH servers and the smallest agent."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from taskflow.clock import ManualClock
from taskflow.errors import OutcomeUnknown, StepError, TransientError
from taskflow.nodes.evidence import ReadsLogs
from taskflow.nodes.providers.base import (
    HostUnreachable,
    NoCapacity,
    OrderInvalid,
    ProviderUnavailable,
    Server,
)
from taskflow.nodes.providers.ssh import SshProvider
from tests.support.ssh_lab import PREFIX, Lab, tombstones
from tests.support.ssh_lab_fixtures import refused
from tests.support.stand_in_agent import make
from tests.support.virtual import FollowingClock
from tests.support.waiting import wait_until
from tests.support.world_fixtures import MakeWorld

LABEL = f"{PREFIX}1"


# --- what stands on the host


def test_an_agent_is_told_where_it_is_reached_and_nothing_secret_is_part_of_a_command(one: Lab) -> None:
    """The order is for its owner's eyes alone, on the way too: argv can be read by everybody on the host."""
    one.provider().create(one.order())
    file = one.directory() / "claim" / "root" / "order.json"
    order = json.loads(file.read_text())
    assert (order["node_id"], order["advertise_host"]) == ("node-1", "127.0.0.1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.directory().stat().st_mode) == 0o711
    argv = one.servers[0].argv
    assert order["agent_token"] not in argv and order["callback_token"] not in argv
    assert LABEL not in argv


def test_what_is_left_on_a_host_is_a_lock_and_a_tombstone(one: Lab) -> None:
    """No process, no file of the agent, no order."""
    provider = one.provider()
    server = provider.create(one.order())
    assert len(one.keepers()) == 1
    assert provider.destroy(server.server_id)
    assert one.keepers() == [] and one.standing() == []
    assert list(tombstones(one.directory())) == [LABEL]


def test_the_end_of_its_agents_log_is_read_from_the_host(one: Lab) -> None:
    """Also of a node whose agent does not live; a host that can't be reached is not waited for longer than said."""
    provider = one.provider()
    assert isinstance(provider, ReadsLogs)
    server = provider.create(one.order())
    (log,) = one.directory().glob("claim/root")
    (log / "agent.log").write_text("what it said last\n")
    assert provider.agent_log(server.server_id, timeout_s=10.0) == "what it said last\n"
    refused(lambda: provider.agent_log(LABEL, timeout_s=10.0), ProviderUnavailable)
    refused(lambda: provider.agent_log(server.server_id, timeout_s=0.001), HostUnreachable)


def test_a_directory_may_be_anywhere(one: Lab, tmp_path: Path) -> None:
    """An absolute one is taken as it is."""
    there = tmp_path / "srv" / "nodes"
    provider = one.provider(directory=str(there))
    server = provider.create(one.order())
    assert (there / "claim" / "root" / "order.json").exists()
    assert provider.destroy(server.server_id)


def test_a_directory_that_others_may_write_to_is_refused(one: Lab) -> None:
    """Who writes there could start a program of theirs as our user."""
    one.directory().mkdir(mode=0o700)
    one.directory().chmod(0o770)
    error = refused(lambda: one.provider().create(one.order()), OrderInvalid)
    assert "not ours alone" in error.message
    assert "not ours alone" in refused(one.provider().check, OrderInvalid).message
    assert one.standing() == []


def test_the_states_of_a_node_are_read_from_locks_that_living_processes_hold(one: Lab) -> None:
    """What is claimed and not started is listed, for whoever cleans up, and is not found as a node that was made."""
    provider = one.provider()
    one.servers[0].plan("do", "cut")
    refused(lambda: provider.create(one.order()), OutcomeUnknown)
    assert [server.state for server in provider.inventory()] == ["starting"]
    assert provider.find_by_label(LABEL) is None
    server = provider.create(one.order())
    assert _state(provider, server) == "running"
    os.kill(one.keepers()[0], signal.SIGKILL)
    wait_until(lambda: _state(provider, server) == "stopped", "the lock is free")
    assert provider.find_by_label(LABEL) is not None


def _state(provider: SshProvider, server: Server) -> str | None:
    found = provider.get(server.server_id)
    return None if found is None else found.state


def test_what_a_shell_prints_by_itself_is_not_taken_for_an_answer(one: Lab) -> None:
    """Start-up files greet."""
    (one.servers[0].home / ".bashrc").write_text("echo 'welcome {}'; echo oops >&2\n")
    assert one.provider().create(one.order()).state == "running"


def test_the_time_of_a_claim_is_ours(one: Lab) -> None:
    """Hosts say an age; what their clocks show is their own business."""
    clock = ManualClock()
    provider = one.provider(clock=clock)
    provider.create(one.order())
    claim = one.directory() / "claim" / "claim.json"
    before = time.time() - 3600.0  # the file's age is measured by the host's own clock
    os.utime(claim, (before, before))
    (found,) = provider.inventory()
    assert found.created_at == pytest.approx(clock.now() - 3600.0, abs=30.0)


# --- one node for each host


def test_of_many_who_want_a_host_at_once_one_has_it(one: Lab) -> None:
    """Two workers, two labels, two installations that share the account: the others are told who has it."""
    labels = [LABEL, f"{PREFIX}2", f"{PREFIX}3", "tf-another-1"]

    def create(label: str) -> Server:
        return one.provider(prefix=f"{label.rsplit('-', 1)[0]}-").create(dataclasses.replace(one.order(), label=label))

    outcomes = _at_once([partial(create, label) for label in labels])
    (winner,) = [found for found in outcomes if isinstance(found, Server)]
    losers = [found for found in outcomes if not isinstance(found, Server)]
    assert {type(found) for found in losers} == {NoCapacity}
    assert all(winner.label in str(found) for found in losers)
    assert len(one.keepers()) == 1


def test_workers_that_make_the_same_node_at_once_make_one(one: Lab) -> None:
    """A paused worker and the one that took its place."""
    outcomes = _at_once([lambda: one.provider().create(one.order())] * 4)
    assert [found.state for found in outcomes if isinstance(found, Server)] == ["running"] * 4, outcomes
    assert len(one.keepers()) == 1


def _at_once(calls: list[Callable[[], Server]]) -> list[Server | Exception]:
    found: list[Server | Exception] = []
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], Server]) -> None:
        together.wait()
        try:
            found.append(call())
        except StepError as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(calls)
    return found


def test_another_installations_node_takes_the_host_and_is_not_in_our_inventory(one: Lab) -> None:
    """It is none of ours, so it is never an orphan of ours."""
    one.provider(prefix="tf-another-").create(dataclasses.replace(one.order(), label="tf-another-1"))
    error = refused(lambda: one.provider().create(one.order()), NoCapacity)
    assert "taken by tf-another-1" in error.message
    assert isinstance(error, TransientError) and error.retry_after_s is not None
    assert list(one.provider().inventory()) == []


def test_a_host_is_sold_again_when_its_node_is_gone(one: Lab) -> None:
    """To another label; the old one is refused."""
    provider = one.provider()
    assert provider.destroy(provider.create(one.order()).server_id)
    again = provider.create(one.order(2, host=0))
    assert (again.label, again.state) == (f"{PREFIX}2", "running")
    assert "was destroyed" in refused(lambda: provider.create(one.order()), OrderInvalid).message


# --- what breaks on the way


@pytest.mark.parametrize("how", ["cut", "lose"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_node_whose_making_breaks_off_anywhere_is_gone_on_with(one: Lab, after: int, how: str) -> None:
    """Whether a request was done or not: what began to be made is unknown, a repeat makes one node of it."""
    one.servers[0].plan(*["do"] * after, how)
    refused(lambda: one.provider().create(one.order()), OutcomeUnknown)
    fresh = one.provider()
    server = fresh.find_by_label(LABEL) or fresh.create(one.order())
    assert server.state == "running"
    assert len(one.keepers()) == 1 and one.standing() == ["claim"]
    assert fresh.destroy(server.server_id)
    assert one.keepers() == [] and one.standing() == []


@pytest.mark.parametrize("how", ["cut", "lose"])
def test_an_end_that_breaks_off_is_asked_for_again(one: Lab, how: str) -> None:
    """It is no end before the host says so."""
    provider = one.provider()
    server = provider.create(one.order())
    one.servers[0].plan(how)
    refused(lambda: provider.destroy(server.server_id), ProviderUnavailable)
    assert provider.destroy(server.server_id)
    assert one.keepers() == [] and one.standing() == []


def test_a_host_that_never_answers_is_not_waited_for(one: Lab) -> None:
    """A create may have happened, a look-up is asked again; either takes its time and no more."""
    hasty = one.provider(timeout_s=2.0)
    began = time.monotonic()
    one.servers[0].plan("wait", "wait")
    refused(lambda: hasty.create(one.order()), OutcomeUnknown)
    refused(lambda: hasty.get(LABEL), ProviderUnavailable)
    assert time.monotonic() - began < 10.0


def test_a_host_that_takes_connections_and_says_nothing_is_not_waited_for(two: Lab) -> None:
    """Those that answer are heard meanwhile."""
    server = two.provider().create(two.order(1))
    two.servers[1].stop()
    with socket.create_server((two.servers[1].address, two.servers[1].port)):
        provider = two.provider(timeout_s=4.0)
        found = provider.find_by_label(LABEL)
        assert found is not None and found.server_id == server.server_id
        refused(provider.inventory, ProviderUnavailable)


def test_a_keeper_that_does_not_start_is_told_with_its_words(one: Lab) -> None:
    """It is tried again, and what was begun is taken away like a node."""
    broken = dataclasses.replace(one.order(), agent={**one.order().agent, "node_id": "node-that-fails"})
    error = refused(lambda: one.provider().create(broken), ProviderUnavailable)
    assert "this one never starts" in error.message
    assert one.provider().destroy(LABEL)
    assert one.standing() == []


def test_an_agent_that_needs_a_newer_python_is_not_tried_again(one: Lab) -> None:
    """Its file knows best what its parts need; no time mends that."""
    order = dataclasses.replace(one.order(), agent={**one.order().agent, "node_id": "node-of-tomorrow"})
    assert "Python 4.0 or newer" in refused(lambda: one.provider().create(order), OrderInvalid).message
    assert one.provider().destroy(LABEL)


# --- what is not known is not gone


def test_a_label_is_looked_up_where_hosts_answer(two: Lab) -> None:
    """It is only where its order went, and there a create fails as well; with nobody to ask there is no answer."""
    provider = two.provider(timeout_s=5.0)
    server = provider.create(two.order(1))
    two.servers[1].stop()
    found = provider.find_by_label(LABEL)
    assert found is not None and found.server_id == server.server_id
    assert provider.find_by_label(f"{PREFIX}2") is None
    refused(lambda: provider.create(two.order(2)), HostUnreachable)
    two.servers[0].stop()
    refused(lambda: provider.find_by_label(f"{PREFIX}2"), ProviderUnavailable)


def test_a_host_that_is_down_makes_its_nodes_unknown_and_not_gone(two: Lab) -> None:
    """Neither the inventory nor a destruction passes over it; what was asked for is done when it is back."""
    provider = two.provider(timeout_s=5.0)
    server = provider.create(two.order(1))
    two.servers[0].stop()
    calls: list[Callable[[], Any]] = [
        provider.inventory, provider.check, lambda: provider.destroy(LABEL), lambda: provider.destroy(server.server_id),
        lambda: provider.get(server.server_id), lambda: provider.get(LABEL),
    ]  # fmt: skip
    for call in calls:
        assert two.servers[0].name in refused(call, ProviderUnavailable).message
    assert len(two.keepers()) == 1
    two.servers[0].start()
    assert provider.destroy(LABEL)
    assert two.keepers() == [] and two.standing() == []


def test_a_host_that_left_the_catalogue_is_asked_for_until_its_node_is_gone(one: Lab) -> None:
    """Not knowing the way there is no proof of an end."""
    error = refused(lambda: one.provider().destroy(f"10.9.9.9:22/{LABEL}"), ProviderUnavailable)
    assert error.advice is not None and "10.9.9.9:22" in error.advice
    unknown = dataclasses.replace(one.order(), size="10.9.9.9")
    refused(lambda: one.provider().create(unknown), OrderInvalid)


def test_a_late_order_is_refused_for_a_day(two: Lab) -> None:
    """On every host that could have had it, whether it was ordered before or not; then the tombstones go."""
    provider = two.provider()
    assert provider.destroy(LABEL)
    for host in (0, 1):
        error = refused(lambda host=host: provider.create(two.order(1, host=host)), OrderInvalid)  # type: ignore[misc]
        assert "was destroyed" in error.message
    stone = tombstones(two.directory())[LABEL]
    yesterday = time.time() - 86_500.0  # a file's age is measured by the host's own clock
    os.utime(stone, (yesterday, yesterday))
    assert provider.create(two.order(1)).state == "running"


# --- the agent's file


def test_an_agent_whose_file_is_gone_is_ended_by_a_new_one(one: Lab) -> None:
    """Only a whole file ends it; one that is broken is replaced too."""
    provider = one.provider()
    file = one.directory() / "claim" / "agent.pyz"
    for number in (1, 2):
        server = provider.create(one.order(number, host=0))
        file.unlink() if number == 1 else file.write_text("broken")
        assert provider.destroy(server.server_id)
        assert one.keepers() == [] and one.standing() == []


def test_an_agents_file_travels_once(one: Lab, tmp_path: Path) -> None:
    """A repeat sends it only when it is another one: three requests to make a node, two to go on."""
    one.servers[0].plan("do", "do", "cut")
    refused(lambda: one.provider().create(one.order()), OutcomeUnknown)
    before = one.servers[0].argv.count("\n")
    one.provider().create(one.order())
    assert one.servers[0].argv.count("\n") == before + 2
    file = one.directory() / "claim" / "agent.pyz"
    assert file.read_bytes() == one.agent.read_bytes()
    one.provider().destroy(LABEL)
    other = make(tmp_path / "other.pyz", "another release")
    one.servers[0].plan("do", "do", "cut")
    order = one.order(2, host=0)
    refused(lambda: one.provider().create(order), OutcomeUnknown)
    one.provider(agent=other).create(order)
    assert file.read_bytes() == other.read_bytes()


# --- the sweep

FILE = """
[[provider]]
name = "cloud"
kind = "ssh"
user = "unused"
key_file = "unused"
known_hosts = "unused"
host = [{address = "unused", vcpus = 2, memory_mb = 4000, slots = 2}]
"""


def test_a_node_that_nobody_needs_is_ended_by_the_sweep_and_never_while_a_host_is_down(
    two: Lab, make_world: MakeWorld, tmp_path: Path
) -> None:
    """Another installation's is not seen. What can't be asked is shown as what failed."""
    path = tmp_path / "providers.toml"
    path.write_text(FILE)
    world = make_world(providers_file=str(path), public_url="https://control.example")
    clock = FollowingClock(world.travel)
    world.cloud = lambda: two.provider(prefix=PREFIX, timeout_s=5.0, clock=clock)
    world.start_worker()
    two.provider().create(two.order(1))
    two.provider(prefix="tf-another-").create(dataclasses.replace(two.order(2), label="tf-another-1"))
    for host in (0, 1):
        claim = two.directory(host) / "claim" / "claim.json"
        os.utime(claim, (claim.stat().st_mtime - 7200.0,) * 2)
    two.servers[1].stop()
    swept = world.app.sweep("delete_orphans")
    assert (swept["done"], swept["failed"]) == (0, 1)
    two.servers[1].start()
    assert world.app.sweep("delete_orphans")["done"] == 1
    assert (two.standing(0), two.standing(1)) == ([], ["claim"])
    assert len(two.keepers()) == 1
