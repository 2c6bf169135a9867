"""An agent kept alive without systemd, and its removal without asking it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import taskflow
from taskflow.agent import keeping, uninstalling
from taskflow.agent.ending import Ending
from taskflow.agent.keeping import Keeper
from taskflow.agent.marks import AGENT_ROOT
from taskflow.agent.processes import is_alive
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import AgentRig
from tests.support.waiting import wait_until

#: Ignores SIGTERM, and leaves a grandchild of its own session without any of our variables, which ignores it too.
_STUBBORN = (
    "trap '' TERM; echo $$ > ../../../../first; "
    'setsid env -i sh -c \'trap "" TERM; sh -c "echo \\$\\$ > ../../../../second; exec sleep 1000" & exit\' & '
    "until [ -e ../../../../second ]; do sleep 0.05; done; echo begun; while :; do sleep 0.1; done"
)


class KeptRig(AgentRig):
    """An agent that a keeper starts."""

    def keep(self, *more: str, program: tuple[str, ...] = ("-m", "taskflow.agent")) -> KeptRig:
        """Start the keeper and wait until its agent listens."""
        before = self.address_file().get("boot_id")
        self.keep_only(*more, program=program)
        wait_until(lambda: self.address_file().get("boot_id", before) != before, "the agent listens")
        return self

    def keep_only(self, *more: str, program: tuple[str, ...] = ("-m", "taskflow.agent")) -> str:
        """What ``keep`` says; it must succeed."""
        argv = [sys.executable, *program, "keep", "--root", str(self.root)]
        argv += ["--control-plane-url", self.control_plane.url, *more]
        done = subprocess.run(argv, env=self.env(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def keeper(self) -> int:
        """Its pid."""
        found: int = json.loads((self.root / "keep.json").read_text())["pid"]
        return found

    def uninstall(self) -> subprocess.CompletedProcess[str]:
        """Run it."""
        argv = [sys.executable, "-m", "taskflow.agent", "uninstall", "--root", str(self.root)]
        return subprocess.run(argv, env=self.env(), capture_output=True, text=True, timeout=60)


@pytest.fixture
def kept(tmp_path: Path, control_plane: FakeControlPlane) -> Iterator[KeptRig]:
    """An agent's directory; the keeper is not started yet."""
    made = KeptRig(tmp_path, control_plane)
    yield made
    made.close()


def test_a_killed_agent_is_started_again_and_follows_its_session(kept: KeptRig) -> None:
    """SIGKILL of the agent costs two seconds: the session goes on and its outcome arrives."""
    kept.keep()
    kept.ready()
    kept.begin("sh", "-c", "echo begun; until [ -e ../../../../go ]; do sleep 0.05; done")
    kept.wait_output(b"begun")
    before = kept.address_file()
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: kept.address_file()["boot_id"] != before["boot_id"], "another agent listens")
    assert kept.session_state()["status"] == "running"
    (kept.root.parent / "go").touch()
    assert kept.outcome()["exit_code"] == 0


def test_the_keeper_is_no_child_of_its_caller_and_holds_nothing_of_it(kept: KeptRig) -> None:
    """A session of its own without the caller's terminal or pipes: an ssh connection that started it can end."""
    kept.keep()
    keeper = kept.keeper()
    assert os.getsid(keeper) == keeper
    held = [str(Path(f"/proc/{keeper}/fd/{number}").readlink()) for number in (0, 1, 2)]
    assert held == ["/dev/null", "/dev/null", str(kept.root / "agent.log")]
    assert (kept.root / "agent.log").stat().st_mode & 0o077 == 0
    os.kill(keeper, signal.SIGHUP)
    kept.ready()
    assert is_alive(keeper)


def test_there_is_one_keeper_for_a_root(kept: KeptRig) -> None:
    """Asked again, which is how a broken connection is repaired, it says that it runs and starts nothing."""
    kept.keep()
    keeper, agent = kept.keeper(), kept.address_file()
    assert "runs already" in kept.keep_only()
    assert (kept.keeper(), kept.address_file()) == (keeper, agent)


def test_a_keeper_takes_over_the_agent_that_a_killed_one_left(kept: KeptRig) -> None:
    """The agent outlives its keeper; the next keeper leaves it alone and is there when it dies."""
    kept.keep()
    os.kill(kept.keeper(), signal.SIGKILL)
    before = kept.address_file()
    kept.keep_only()
    assert kept.call("GET", "/v1/node").json()["boot_id"] == before["boot_id"]
    os.kill(before["pid"], signal.SIGKILL)
    wait_until(lambda: kept.address_file()["boot_id"] != before["boot_id"], "another agent listens")


def test_sigterm_ends_the_keeper_and_its_agent_and_leaves_the_session(kept: KeptRig) -> None:
    """As a stop of the service would: what runs under a shim goes on, and the next keeper's agent follows it."""
    kept.keep()
    kept.ready()
    kept.begin("sh", "-c", "echo begun; until [ -e ../../../../go ]; do sleep 0.05; done")
    kept.wait_output(b"begun")
    keeper, agent = kept.keeper(), kept.address_file()["pid"]
    os.kill(keeper, signal.SIGTERM)
    wait_until(lambda: not is_alive(keeper) and not is_alive(agent), "both are gone")
    assert not (kept.root / "keep.json").exists()
    (kept.root.parent / "go").touch()
    kept.keep()
    assert kept.outcome()["exit_code"] == 0


def test_a_node_that_is_gone_is_not_kept(kept: KeptRig, control_plane: FakeControlPlane) -> None:
    """The agent ends with status 0 when the control plane has no such node; its keeper ends too."""
    kept.keep()
    keeper = kept.keeper()
    control_plane.fault = lambda call: 410
    wait_until(lambda: not is_alive(keeper), "the keeper ends")
    assert not kept.leftovers()


def test_the_log_of_a_kept_agent_is_bounded(kept: KeptRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its limit the log is moved to one older file, and what runs goes on writing to the new one."""
    monkeypatch.setattr(keeping, "LOG_BYTES_MAX", 1000)
    script = "for i in $(seq 400); do echo line $i of a talkative agent >&2; sleep 0.005; done; exit 0"
    keeping.Keeper(kept.root, ["sh", "-c", script], Ending()).run()
    newer, older = (kept.root / name for name in ("agent.log", "agent.log.1"))
    assert older.stat().st_mode & 0o077 == 0
    assert newer.stat().st_size + older.stat().st_size < 400 * 28
    assert b"line 400 of" in newer.read_bytes() + older.read_bytes()


def test_the_agent_runs_from_one_file(kept: KeptRig, tmp_path: Path) -> None:
    """A zip file that is named relative to where one stands keeps an agent, shims and jobs included."""
    package = Path(next(iter(taskflow.__path__)))
    with zipfile.ZipFile(tmp_path / "agent.pyz", "w") as archive:
        for file in package.rglob("*.py"):
            archive.write(file, file.relative_to(package.parent))
        archive.writestr("__main__.py", "import sys\nfrom taskflow.agent import main\nsys.exit(main(sys.argv[1:]))\n")
    kept.keep(program=(os.path.relpath(tmp_path / "agent.pyz"),))
    agent = kept.address_file()["pid"]
    assert f"PYTHONPATH={tmp_path / 'agent.pyz'}".encode() in Path(f"/proc/{agent}/environ").read_bytes().split(b"\0")
    kept.ready()
    assert kept.run("echo", "said")["exit_code"] == 0


def test_a_wrong_call_is_answered_at_once(kept: KeptRig, tmp_path: Path) -> None:
    """No such directory, and a missing argument, are said to the caller and not only to a log."""
    argv = [sys.executable, "-m", "taskflow.agent", "keep", "--root", str(tmp_path / "nowhere")]
    done = subprocess.run([*argv, "--control-plane-url", "http://x"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "nowhere" in done.stderr) == (1, True)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "--control-plane-url" in done.stderr) == (2, True)


def test_uninstall_leaves_no_process_and_no_file(kept: KeptRig) -> None:
    """Also of a session that ignores SIGTERM and forked away from everything that could name it; twice is fine."""
    kept.keep()
    kept.ready()
    kept.begin("sh", "-c", _STUBBORN)
    kept.wait_output(b"begun")
    pids = [int((kept.root.parent / name).read_text()) for name in ("first", "second")]
    pids += [kept.keeper(), kept.address_file()["pid"]]
    assert all(is_alive(pid) for pid in pids)
    done = kept.uninstall()
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(is_alive(pid) for pid in pids)
    assert not kept.root.exists()
    assert not kept.leftovers()
    assert kept.uninstall().returncode == 0


def test_uninstall_does_not_need_the_agent_to_answer(kept: KeptRig) -> None:
    """A keeper that is dead, an agent that hangs, shims whose agent was replaced: all are found and ended."""
    kept.keep()
    kept.ready()
    kept.begin("sh", "-c", "echo begun; sleep 1000")
    kept.wait_output(b"begun")
    os.kill(kept.address_file()["pid"], signal.SIGKILL)
    first = kept.address_file()["boot_id"]
    wait_until(lambda: kept.address_file()["boot_id"] != first, "another agent listens")
    os.kill(kept.keeper(), signal.SIGKILL)
    os.kill(kept.address_file()["pid"], signal.SIGSTOP)
    assert kept.uninstall().returncode == 0
    assert not kept.leftovers()
    assert not kept.root.exists()


def test_uninstall_ends_an_agent_that_something_else_started(rig: AgentRig) -> None:
    """Without a keeper the agent's own record names it; a process that only stands in the directory is left alone."""
    agent = rig.start()
    agent.ready()
    with subprocess.Popen(["sleep", "1000"], cwd=agent.root) as bystander:
        left = uninstalling.uninstall(agent.root)
        assert left == []
        assert bystander.poll() is None
        bystander.kill()
    assert agent.process is not None
    assert agent.process.wait(timeout=10) == -signal.SIGKILL
    assert not agent.root.exists()


def test_uninstall_says_what_it_could_not_end(kept: KeptRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something of another user, or stuck in the kernel: it is named, and the files that explain it stay."""
    monkeypatch.setattr(uninstalling, "kill_processes", lambda pids, grace_s: list(pids))
    with subprocess.Popen(["sleep", "1000"], env={**kept.env(), AGENT_ROOT: str(kept.root)}) as stuck:
        assert uninstalling.uninstall(kept.root) == [f"process {stuck.pid}"]
        stuck.kill()
    assert kept.root.exists()


def test_a_keeper_that_finds_no_room_for_a_process_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended the agent, a machine without memory, mostly keeps it from being started at once."""
    refused = [OSError(errno.ENOMEM, "Cannot allocate memory"), OSError(errno.EAGAIN, "no more processes")]
    real = subprocess.Popen

    def popen(*args: Any, **kwargs: Any) -> Any:
        if refused:
            raise refused.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(keeping, "_AGAIN_S", 0.01)
    monkeypatch.setattr(subprocess, "Popen", popen)
    started = tmp_path / "started"
    Keeper(tmp_path, [sys.executable, "-c", f"open({str(started)!r}, 'w')"], Ending()).run()
    assert started.exists()
    assert refused == []
