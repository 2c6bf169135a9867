"""Finding and ending processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from taskflow.agent import processes
from tests.support.waiting import wait_until


@pytest.fixture
def mark() -> Iterator[str]:
    """A value that only this test's processes carry; what carries it at the end is killed."""
    value = uuid.uuid4().hex
    yield value
    processes.kill_processes(processes.processes_with_env("TEST_MARK", value), grace_s=0)


def spawn(script: str, mark: str, **kwargs: object) -> subprocess.Popen[bytes]:
    """A shell with the mark in its environment."""
    env = {"PATH": os.environ["PATH"], "TEST_MARK": mark}
    return subprocess.Popen(["sh", "-c", script], env=env, **kwargs)  # type: ignore[call-overload]


def test_processes_are_found_by_their_environment(mark: str) -> None:
    """Exact value only, own process never, and a detached grandchild is found too."""
    process = spawn("setsid sleep 1000 & wait", mark)
    wait_until(lambda: len(processes.processes_with_env("TEST_MARK", mark)) == 2, "both are found")
    assert processes.processes_with_env("TEST_MARK", mark[:-1]) == []
    assert processes.processes_with_env("PATH", os.environ["PATH"]).count(os.getpid()) == 0
    processes.kill_processes(processes.processes_with_env("TEST_MARK", mark), grace_s=0)
    process.wait()
    assert processes.processes_with_env("TEST_MARK", mark) == []


def test_a_tree_is_ended_also_where_it_ignores_sigterm(mark: str) -> None:
    """SIGTERM first, SIGKILL after the grace, descendants included; nothing is left to return."""
    process = spawn("trap '' TERM; sh -c 'sleep 1000 & wait' & while :; do sleep 0.1; done", mark)
    wait_until(lambda: len(processes.descendants_of(process.pid)) >= 3, "the tree stands")
    assert processes.kill_tree(process.pid, grace_s=0.3) == []
    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not processes.processes_with_env("TEST_MARK", mark), "all are gone")


def test_sigterm_within_the_grace_is_enough(mark: str) -> None:
    """A process that heeds SIGTERM is not killed harder."""
    process = spawn("trap 'exit 3' TERM; echo; while :; do sleep 0.05; done", mark, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert processes.kill_processes([process.pid], grace_s=10.0) == []
    assert process.wait() == 3
    process.stdout.close()


def test_this_process_and_init_are_never_ended() -> None:
    """Ending by pid skips the caller, init and the process group shorthand."""
    assert processes.kill_processes([0, 1, os.getpid()], grace_s=0) == []


def test_a_child_with_a_death_signal_ends_with_its_parent(mark: str) -> None:
    """The child is gone after SIGKILL of its parent."""
    code = (
        "import subprocess, sys; from taskflow.agent.processes import set_parent_death_signal as tie;"
        "subprocess.Popen(['sleep', '1000'], preexec_fn=tie).wait()"
    )
    env = {"PATH": os.environ["PATH"], "TEST_MARK": mark}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env)
    wait_until(lambda: len(processes.children_of(parent.pid)) == 1, "the child runs")
    parent.kill()
    parent.wait()
    wait_until(lambda: not processes.processes_with_env("TEST_MARK", mark), "the child is gone")


def test_a_subreaper_inherits_orphans(mark: str) -> None:
    """A double-forked grandchild becomes the subreaper's child and is ended with its descendants."""
    code = (
        "import os, subprocess, time; from taskflow.agent import processes as p; p.become_subreaper();"
        "subprocess.run(['sh', '-c', 'setsid env -i sleep 1000 &']);"
        "assert len(p.children_of(os.getpid())) == 1; assert p.kill_descendants(os.getpid()) == [];"
        "assert p.descendants_of(os.getpid()) == []"
    )
    env = {"PATH": os.environ["PATH"], "TEST_MARK": mark}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=30).returncode == 0
