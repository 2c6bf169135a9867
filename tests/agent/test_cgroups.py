"""Control groups: real ones where this machine has any, and what is written into one where limits can't be had here."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent import cgroups
from taskflow.agent.cgroups import Cgroups
from taskflow.agent.confinement import Confinement
from tests.support.waiting import wait_until

_REAL = (cgroups.MOUNT, cgroups.MOUNT / "unified")


@pytest.fixture
def group() -> Iterator[Path]:
    """A real group, with or without controllers."""
    for mount in _REAL:
        if (mount / "cgroup.controllers").exists() and os.access(mount, os.W_OK):
            path = mount / f"taskflow-test-{os.getpid()}"
            try:
                path.mkdir()
            except OSError:
                continue
            yield path
            cgroups.end(path)
            return
    pytest.skip("no control groups (version 2) that may be made here")


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """What a kernel with all controllers shows, as plain files."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    (tmp_path / "cgroup.subtree_control").touch()
    files(tmp_path / "taskflow", "cgroup.subtree_control")
    files(tmp_path / "taskflow" / "ws", "pids.max", "memory.max", "memory.swap.max", "cpu.weight")
    return tmp_path


def files(directory: Path, *names: str) -> None:
    """Empty files, as the kernel makes them with a group."""
    directory.mkdir()
    for name in names:
        (directory / name).touch()


def test_all_in_a_group_end_with_it(group: Path) -> None:
    """A command enters before it runs; whatever it started, wherever that went, ends, and the group is gone."""
    confinement = Confinement(cgroup=str(group))
    process = subprocess.Popen(
        ["sh", "-c", "setsid env -i sleep 1000 & setsid sleep 1000 & sleep 1000"], preexec_fn=confinement.enter
    )
    wait_until(lambda: len((group / "cgroup.procs").read_text().split()) == 4, "all four are in it")
    cgroups.end(group)
    assert process.wait(timeout=10) == -9
    assert not group.exists()


@pytest.mark.skipif(os.geteuid() != 0 or Cgroups.find() is None, reason="no controllers of memory and pids to be had")
def test_memory_that_is_used_up_ends_the_command_and_is_said() -> None:
    """The wall holds, and the kernel's count tells it from any other SIGKILL."""
    found = Cgroups.find()
    assert found is not None
    group = found.make(f"test-{os.getpid()}", vcpus=1.0, memory_mb=64, processes=20)
    try:
        confinement = Confinement(cgroup=str(group), memory_mb=64)
        before = confinement.memory_kills()
        eater = ["/usr/bin/python3", "-c", "bytearray(2**20) and [bytearray(2**20) for _ in range(1000)]"]
        assert subprocess.run(eater, preexec_fn=confinement.enter, check=False).returncode == -9
        assert confinement.memory_kills() > before
    finally:
        cgroups.end(group)


def test_what_was_reserved_is_what_is_written(mount: Path) -> None:
    """Memory and processes are walls, without a way out to swap; cores are a share."""
    found = Cgroups.find(mount)
    assert found is not None
    assert (mount / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    group = found.make("ws", vcpus=1.5, memory_mb=512, processes=100)
    written = {path.name: path.read_text() for path in group.iterdir()}
    assert written == {
        "pids.max": "100", "memory.max": str(512 * 2**20), "memory.swap.max": "0", "cpu.weight": "150",
    }  # fmt: skip


def test_nothing_reserved_is_no_wall_of_memory(mount: Path) -> None:
    """Who reserved nothing may use what is there."""
    found = Cgroups.find(mount)
    assert found is not None
    group = found.make("ws", vcpus=0.0, memory_mb=0, processes=100)
    assert (group / "memory.max").read_text() == "max"
    assert (group / "cpu.weight").read_text() == ""


def test_without_the_controllers_there_are_none(mount: Path, tmp_path: Path) -> None:
    """Another version, a missing controller, or a directory that is no group: found out at the start."""
    (mount / "cgroup.controllers").write_text("cpu pids")
    assert Cgroups.find(mount) is None
    (mount / "cgroup.controllers").write_text("memory pids")
    (mount / "cgroup.subtree_control").unlink()
    assert Cgroups.find(mount) is None
    assert Cgroups.find(tmp_path / "nowhere") is None


def test_kills_for_memory_are_read_from_the_group(tmp_path: Path) -> None:
    """The kernel's own words; where nobody counts, none are claimed."""
    assert Confinement().memory_kills() == 0
    assert Confinement(cgroup=str(tmp_path)).memory_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 0\n")
    assert Confinement(cgroup=str(tmp_path)).memory_kills() == 3
