"""What is done on a host, killed at every line that changes something there, and done again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow.nodes.providers import ssh_host
from taskflow.nodes.providers.ssh_host import Place
from tests.support.ssh_lab import tombstones
from tests.support.stand_in_agent import make
from tests.support.waiting import wait_until

LABEL = "tf-installation-1"
WANT = {"label": LABEL, "isolate": False}
#: What changes a host, as Python's audit events call it.
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "subprocess.Popen")
KILLED = 77
LIMIT_S = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """The provider's directory; what runs there is ended."""
    yield tmp_path / "nodes"
    for pid in (tmp_path / "nodes").glob("*/root/pid"):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def make_node(directory: Path, agent: bytes) -> str:
    """The requests that make a node, in their order. Its state."""
    place = Place(str(directory), LIMIT_S)
    claim = ssh_host.claim(place, WANT, b"")
    assert claim["by"] == LABEL
    if claim["state"] != "starting":
        return str(claim["state"])
    wanted = hashlib.sha256(agent).hexdigest()
    if claim["agent"] != wanted:
        ssh_host.put_agent(place, {"label": LABEL, "hash": wanted}, agent)
    request = {"label": LABEL, "order": {"node_id": "node-1"}, "control_plane_url": "http://control.test", "ca": "PEM"}
    return str(ssh_host.start(place, request, b"")["state"])


def end_node(directory: Path, agent: bytes) -> bool:
    """The requests that end it."""
    place, wanted = Place(str(directory), LIMIT_S), hashlib.sha256(agent).hexdigest()
    answer = ssh_host.destroy(place, {"label": LABEL, "hash": wanted}, b"")
    if answer.get("wants_agent"):
        ssh_host.put_agent(place, {"label": LABEL, "hash": wanted}, agent)
        answer = ssh_host.destroy(place, {"label": LABEL, "hash": wanted}, b"")
    return bool(answer["gone"])


def killed_at(change: int, work: Callable[[], Any]) -> bool:
    """Do it in a process that ends without a word before its ``change``-th change. False when it got through."""
    pid = os.fork()
    if pid == 0:
        left = change

        def hook(event: str, _: tuple[Any, ...]) -> None:
            nonlocal left
            left -= event in CHANGES
            if left <= 0:
                os._exit(KILLED)

        try:
            sys.addaudithook(hook)
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def living(directory: Path) -> int:
    """How many keepers run there."""
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(directory) in _read(path)]
    return sum("keep" in _read(path) for path in found)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def standing(directory: Path) -> list[str]:
    """What is there besides the lock and the tombstones."""
    return sorted({one.name for one in directory.iterdir()} - {"lock", "gone"})


def test_a_node_is_made_whole_wherever_its_making_was_killed(directory: Path, tmp_path: Path) -> None:
    """Each time at another change: the repeat finds what is done, makes the rest, and one keeper runs."""
    agent = make(tmp_path / "agent.pyz").read_bytes()
    change = 1
    while killed_at(change, lambda: make_node(directory, agent)):
        assert make_node(directory, agent) == "running", change
        assert standing(directory) == ["claim"], change
        assert living(directory) == 1, change
        assert end_node(directory, agent), change
        assert standing(directory) == [] and living(directory) == 0, change
        tombstones(directory)[LABEL].unlink()
        change += 1
    assert change > 20


def test_a_node_is_ended_whole_wherever_its_end_was_killed(directory: Path, tmp_path: Path) -> None:
    """And no order is taken meanwhile: once its end began, the label is refused."""
    agent = make(tmp_path / "agent.pyz").read_bytes()
    change = 1
    make_node(directory, agent)
    while killed_at(change, lambda: end_node(directory, agent)):
        begun = LABEL in tombstones(directory)
        assert not begun or ssh_host.claim(Place(str(directory), LIMIT_S), WANT, b"") == {"destroyed": True}
        assert end_node(directory, agent), change
        assert standing(directory) == [] and living(directory) == 0, change
        tombstones(directory)[LABEL].unlink()
        make_node(directory, agent)
        change += 1
    assert change > 10


def test_a_claim_is_not_made_over_another_one(directory: Path) -> None:
    """The rename alone decides, should a lock ever fail to: on a file system that has none, for instance."""
    place = Place(str(directory), LIMIT_S)
    directory.mkdir(mode=0o700)
    place.take("first")
    place.take("second")
    assert place.label() == "first"
    assert standing(directory) == ["claim"]


def test_a_host_on_which_a_session_lives_is_not_stopped(directory: Path, tmp_path: Path) -> None:
    """Its keeper and its agent were killed, and the command goes on: what is lost there must not begin elsewhere yet."""
    agent = make(tmp_path / "agent.pyz").read_bytes()
    make_node(directory, agent)
    place = Place(str(directory), LIMIT_S)
    os.kill(int((place.root / "pid").read_text()), signal.SIGKILL)
    (place.root / "pid").unlink()
    wait_until(lambda: place.state() == "stopped", "the keeper is dead")
    session = place.root / "workspaces" / "ws-1" / "sessions" / "session-1"
    session.mkdir(parents=True)
    with (session / "shim.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert place.state() == "running"
    assert place.state() == "stopped"


def test_a_change_waits_for_another_one_and_not_for_ever(directory: Path) -> None:
    """Who holds the lock and hangs is left to its own end."""
    with Place(str(directory), LIMIT_S).locked(), pytest.raises(ssh_host.Busy):
        ssh_host.claim(Place(str(directory), 0.3), WANT, b"")


def test_a_host_whose_workspaces_can_have_no_users_is_not_claimed(tmp_path: Path, monkeypatch: Any) -> None:
    """The agent would say so only to its log, on and on; the directory's way has to be open, and only root can do it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    want = {"label": LABEL, "isolate": True}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ssh_host.Refused, match="only where root is the user"):
        ssh_host.claim(Place(str(closed / "nodes"), LIMIT_S), want, b"")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for ask in (ssh_host.claim, ssh_host.check):
        with pytest.raises(ssh_host.Refused, match="lets nobody pass"):
            ask(Place(str(closed / "nodes"), LIMIT_S), want, b"")
    assert list(closed.iterdir()) == []


def test_the_end_of_a_log_is_read_by_whole_lines_and_of_its_own_node_alone(directory: Path, tmp_path: Path) -> None:
    """Without a claim, without a log, or for another label there is none."""
    place, want = Place(str(directory), LIMIT_S), {**WANT, "bytes": 30}
    assert ssh_host.log(place, want, b"") == {"log": ""}
    make_node(directory, make(tmp_path / "agent.pyz").read_bytes())
    assert ssh_host.log(place, want, b"") == {"log": ""}
    (place.root / "agent.log").write_bytes(b"one line\nanother \xff\n")
    assert ssh_host.log(place, want, b"") == {"log": "one line\nanother \ufffd\n"}
    (place.root / "agent.log").write_bytes(b"one line that is long\nanother one\nthe last\n")
    assert ssh_host.log(place, want, b"") == {"log": "another one\nthe last\n"}
    assert ssh_host.log(place, {**want, "label": "tf-installation-2"}, b"") == {"log": ""}


def test_a_label_names_no_path(directory: Path) -> None:
    """It becomes the name of a file."""
    for label in ("../x", "a/b", "", "A", "-a", "a" * 64, "a\n"):
        with pytest.raises(ssh_host.Refused):
            ssh_host.destroy(Place(str(directory), LIMIT_S), {"label": label, "hash": ""}, b"")
    assert not directory.exists()


def test_a_file_that_did_not_come_whole_is_not_put_anywhere(directory: Path, tmp_path: Path) -> None:
    """Half an agent would start, and fail where nobody looks."""
    agent = make(tmp_path / "agent.pyz").read_bytes()
    place = Place(str(directory), LIMIT_S)
    ssh_host.claim(place, WANT, b"")
    request = {"label": LABEL, "hash": hashlib.sha256(agent).hexdigest()}
    assert "failed" in ssh_host.put_agent(place, request, agent[:-1])
    assert not place.agent.exists()
    assert ssh_host.put_agent(place, request, agent) == {}
    assert place.agent.read_bytes() == agent
