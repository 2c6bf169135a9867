"""Numbers for users: one holder at a time, and nothing left of the last one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from taskflow.agent import users
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture(autouse=True)
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A register of this test's own, so that each number it asks for is free."""
    monkeypatch.setattr(users, "REGISTER", tmp_path / "register")


@pytest.fixture
def uid() -> int:
    """A number that nothing on this machine uses now. Each test process has its own."""
    return users.UIDS[-1 - os.getpid() % 50]


def take(proof: Path, uid: int) -> int:
    """Take that number for ``proof``."""

    def prove(number: int) -> None:
        proof.write_text(str(number))

    return users.take(proof, prove, uids=[uid])


def test_a_number_has_one_holder_until_it_left_nothing(tmp_path: Path, uid: int) -> None:
    """Held as long as the proof lies there, and after that as long as a process of it lives."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert take(first, uid) == uid
    with pytest.raises(users.NoUserLeft):
        take(second, uid)
    process = subprocess.Popen(["sleep", "1000"], user=uid, group=uid, extra_groups=[], start_new_session=True)
    first.unlink()
    with pytest.raises(users.NoUserLeft):
        take(second, uid)
    assert not second.exists()
    assert users.end_processes(uid) == []
    process.wait()
    assert take(second, uid) == uid


def test_what_the_last_holder_left_in_public_is_gone_before_the_next(tmp_path: Path, uid: int) -> None:
    """An agent that died between the two removals must not leave its workspace's files to the next one's."""
    left = Path(f"/tmp/taskflow-test-users-{os.getpid()}")
    left.write_text("of the last one")
    os.chown(left, uid, uid)
    take(tmp_path / "proof", uid)
    assert not left.exists()


def test_accounts_of_the_machine_are_never_given(tmp_path: Path) -> None:
    """A number that passwd or group knows belongs to somebody."""
    with pytest.raises(users.NoUserLeft):
        users.take(tmp_path / "proof", lambda number: None, uids=[0, 1, 2])
    assert not (tmp_path / "proof").exists()


def test_only_users_of_workspaces_are_ended(uid: int) -> None:
    """A damaged file that says 0 ends nothing."""
    for number in (0, 1, 1000, users.UIDS[-1] + 1):
        with pytest.raises(ValueError, match="not the number of a workspace's user"):
            users.end_processes(number)
        with pytest.raises(ValueError, match="not the number of a workspace's user"):
            users.remove_leavings(number)


def test_a_fork_bomb_is_ended(uid: int) -> None:
    """Processes that multiply while they are being ended all end."""
    bomb = (
        "import os, resource\nresource.setrlimit(resource.RLIMIT_NPROC, (100, 100))\nos.setgid(UID); os.setuid(UID)\n"
    )
    bomb += "while True:\n try:\n  os.fork()\n except OSError: pass\n"
    process = subprocess.Popen(["/usr/bin/python3", "-c", bomb.replace("UID", str(uid))], start_new_session=True)
    wait_until(lambda: len(users.processes_of(uid)) > 50, "it multiplies")
    assert users.end_processes(uid) == []
    process.wait()
