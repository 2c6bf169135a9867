"""Tasks on other hosts, whose link is cut: short, for too long, and for too long where the task may run again.

The hosts are network namespaces of this machine with a real SSH server each; the control plane is in none of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taskflow.stack.ports import free_port
from tests.e2e.stack import Stack, git, make_repository
from tests.support.hosts import Network, OtherHost, other_hosts
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

#: Every limit as short as the ladder lets it be: a second or two instead of minutes.
SHORT = {
    "HEARTBEAT_INTERVAL_S": "0.5", "HEARTBEAT_GRACE_S": "0.5", "HEARTBEAT_STALE_S": "2", "DEAD_MAN_S": "4",
    "NODE_LOST_S": "14", "NODE_WARM_S": "1", "AGENT_REQUEST_TIMEOUT_S": "2", "SIGNATURE_AGE_S": "3", "LEASE_S": "3",
    "PROVIDER_TIMEOUT_S": "6", "PROVIDER_SETTLE_S": "12", "PROVISION_POLL_S": "0.2", "LIVENESS_POLL_S": "1",
    "CAPACITY_POLL_S": "1", "OUTBOX_INTERVAL_S": "1", "RETRY_BASE_S": "0.5", "RETRY_MAX_S": "2",
}  # fmt: skip
#: Of a node that comes back before it has ended anything.
PATIENT = {"DEAD_MAN_S": "40", "NODE_LOST_S": "50"}


@dataclass
class Lab:
    """A stack, and the hosts that it may use."""

    stack: Stack
    network: Network
    repository: Path

    @property
    def go(self) -> Path:
        """Commands go on when it is there."""
        return self.network.root / "go"

    def submit(self, **spec: Any) -> str:
        """A task that writes down which network it ran in, and waits for ``go``."""
        command = f"readlink /proc/self/ns/net > where; id -u > who; until [ -e {self.go} ]; do sleep 0.1; done"
        return self.stack.submit(self.repository, ["sh", "-c", command], **spec)

    def runs_on(self, host: OtherHost) -> bool:
        """Whether a command that waits for ``go`` lives there."""
        return any(f"until [ -e {self.go} ]" in line for line in host.processes())

    def node(self, node_id: str) -> dict[str, Any]:
        """The node as the API shows it."""
        found: dict[str, Any] = self.stack.api("GET", f"/api/nodes/{node_id}")
        return found

    def assert_work_of(self, task: dict[str, Any], host: OtherHost) -> None:
        """The task completed, on that host, as a user of its own, and its work came back."""
        assert task["status"] == "completed", task
        branch = task["result"]["output_branch"]
        assert git(self.repository, "show", f"{branch}:where").strip() == host.namespace
        assert git(self.repository, "show", f"{branch}:who").strip() != "0"

    def assert_nothing_left(self, host: OtherHost, node_id: str) -> None:
        """Its node is destroyed; no process lives there, and no file but the tombstone that stands for a day."""
        wait_until(lambda: self.node(node_id)["status"] == "destroyed", f"{node_id} is destroyed", timeout_s=40)
        assert (host.processes(), host.files()) == ([], [])
        assert len(list((host.server.home / "taskflow-nodes" / "gone").iterdir())) == 1


@contextmanager
def lab(tmp_path: Path, count: int, environ: dict[str, str]) -> Iterator[Lab]:
    """A stack with ``count`` other hosts; nothing of them is left. Skips where nobody is root, but not under CI."""
    with _hosts(count) as network:
        data_dir, port = tmp_path / "data", free_port()
        data_dir.mkdir(mode=0o700)
        (data_dir / "providers.toml").write_text(_catalogue(network))
        settings = {**SHORT, **environ, "HOST": network.address, "PORT": str(port)}
        settings["PUBLIC_URL"] = f"http://{network.address}:{port}"
        stack = Stack(data_dir, {f"TASKFLOW_{name}": value for name, value in settings.items()})
        try:
            yield Lab(stack.start(), network, make_repository(network.root / "repository"))
        finally:
            stack.stop()


@contextmanager
def _hosts(count: int) -> Iterator[Network]:
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("only root can make network namespaces")
    with other_hosts(count) as network:
        yield network


def _catalogue(network: Network) -> str:
    lines = [
        "[[provider]]", 'name = "lab"', 'kind = "ssh"', f'user = "{network.hosts[0].server.user}"',
        f'key_file = "{network.key}"', f'known_hosts = "{network.known_hosts}"',
        f'python = "{getattr(sys, "_base_executable", sys.executable)}"',  # not the one that the stack runs on
    ]  # fmt: skip
    for host in network.hosts:
        lines += [
            "[[provider.host]]", f'address = "{host.address}"', f"port = {host.server.port}", "slots = 2",
            "vcpus = 2", "memory_mb = 1000",
        ]  # fmt: skip
    return "\n".join(lines)


def _running(one: Lab, task_id: str) -> str:
    """Wait until the command of the task lives on the first host. Its node."""
    one.stack.at_step(task_id, "running")
    wait_until(lambda: one.runs_on(one.network.hosts[0]), "the command runs on the other host")
    return str(one.stack.task(task_id)["node_id"])


def test_a_link_that_is_cut_for_a_while_costs_a_task_nothing(tmp_path: Path) -> None:
    """The node is unreachable and the task unknown, until the link heals: it completes, and nothing is left there."""
    with lab(tmp_path, 1, PATIENT) as one:
        (host,) = one.network.hosts
        task_id = one.submit()
        node_id = _running(one, task_id)
        assert one.stack.task(task_id)["unknown_since"] is None
        host.cut()
        wait_until(lambda: one.node(node_id)["unreachable_since"], "the node is unreachable")
        assert one.stack.task(task_id)["unknown_since"]
        assert one.runs_on(host)
        host.heal()
        wait_until(lambda: one.stack.task(task_id)["unknown_since"] is None, "the node is heard of again")
        one.go.touch()
        one.assert_work_of(one.stack.finished(task_id), host)
        one.assert_nothing_left(host, node_id)


def test_a_link_that_stays_cut_ends_the_session_on_its_node_and_the_task(tmp_path: Path) -> None:
    """Nobody there is told to: the agent ends it, before the control plane gives the node up; healed, nothing is left."""
    with lab(tmp_path, 1, {}) as one:
        (host,) = one.network.hosts
        task_id = one.submit()
        node_id = _running(one, task_id)
        host.cut()
        wait_until(lambda: not one.runs_on(host), "the node ended the session")
        assert one.stack.task(task_id)["status"] == "in_progress"
        task = one.stack.finished(task_id)
        assert (task["status"], task["error"]["code"]) == ("failed", "node_lost"), task
        assert task["error"]["detail"]["by"] == "silence"
        assert host.files() != []
        host.heal()
        one.assert_nothing_left(host, node_id)


def test_a_task_whose_link_stays_cut_runs_again_on_another_host(tmp_path: Path) -> None:
    """As often as its user allowed, and only after it has ended on the first one, which is cleaned when the link heals."""
    with lab(tmp_path, 2, {}) as one:
        first, second = one.network.hosts
        task_id = one.submit(node_loss_reruns=1)
        lost_id = _running(one, task_id)
        first.cut()
        wait_until(lambda: one.runs_on(second), "the command runs on the second host", timeout_s=60)
        assert not one.runs_on(first)
        one.go.touch()
        task = one.stack.finished(task_id)
        one.assert_work_of(task, second)
        assert task["node_id"] != lost_id
        assert one.node(lost_id)["status"] != "destroyed" and first.files() != []
        first.heal()
        one.assert_nothing_left(first, lost_id)
        one.assert_nothing_left(second, task["node_id"])
