"""Set-up and sessions in containers of a real engine, podman, with an image made on the spot."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent import users
from taskflow.agent.confinement import Confinement
from taskflow.agent.containers import find_engine, launch
from taskflow.agent.places import read_json
from taskflow.agent.problems import StartRefused
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import SESSION, WS, AgentRig, git
from tests.support.waiting import wait_until

_BUSYBOX = Path("/bin/busybox")
_LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=64:64", "--ulimit=core=0:0")
_RUN = ("run", "--rm", "--init", "--network=host", *_LIMITS)
_PROGRAMS = ("sh", "cat", "echo", "id", "env", "ls", "sleep", "touch", "seq", "setsid", "grep", "kill", "test")


@pytest.fixture
def isolate() -> bool:
    """A container runs as its workspace's user."""
    return True


@pytest.fixture(scope="module")
def engine_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the environment has to say so that podman runs a container here; skips where it can't."""
    if os.geteuid() != 0:
        pytest.skip("only root can isolate")
    if shutil.which("podman") is None or not _BUSYBOX.exists():
        pytest.skip("needs podman, catatonit and busybox-static")
    directory = tmp_path_factory.mktemp("image")
    _import(directory / "image.tar")
    conf = directory / "containers.conf"
    words = ""
    for runtime in ("crun", "runc"):
        conf.write_text(f'[engine]\nruntime = "{runtime}"\n')
        env = {"CONTAINERS_CONF": str(conf)}
        done = subprocess.run(
            ["podman", *_RUN, image(), "true"], env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            yield env
            subprocess.run(["podman", "rmi", "--force", image()], capture_output=True, check=False)
            return
        words += f" {runtime}: {done.stderr.strip()[-200:]}"
    pytest.skip(f"podman runs no container here:{words}")


def image() -> str:
    """The image of this test process."""
    return f"localhost/taskflow-test-{os.getpid()}:1"


def _import(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(_BUSYBOX, "bin/busybox")
        for name in (*_PROGRAMS, "true"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    subprocess.run(["podman", "import", "--quiet", str(path), image()], check=True, capture_output=True)


@pytest.fixture
def contained(tmp_path: Path, control_plane: FakeControlPlane, engine_env: dict[str, str]) -> Iterator[AgentRig]:
    """A running agent whose commands run in containers."""
    rig = AgentRig(tmp_path, control_plane, isolate=True, image=image())
    rig.host_env = engine_env
    yield rig.start()
    if rig.process is not None and rig.process.poll() is None:
        rig.delete(fence=9)
    rig.close()


def containers() -> list[str]:
    """The containers of this test's workspace, in whatever state."""
    done = subprocess.run(
        ["podman", "ps", "--all", "--format", "{{.Names}}"], check=True, capture_output=True, text=True
    )
    return [name for name in done.stdout.split() if name == f"taskflow-{WS}"]


def uid_of(agent: AgentRig) -> int:
    """The number of the workspace's user."""
    found = read_json(agent.root / "workspaces" / WS / "confinement.json") or {}
    return int(found["uid"])


def test_set_up_and_session_run_in_the_image_and_their_work_is_pushed(contained: AgentRig) -> None:
    """As the workspace's user, in its tree and home, with its environment; what it leaves is committed and pushed."""
    contained.ready(setup_command=["sh", "-c", "echo $COLOUR > made; touch $HOME/kept"], env={"COLOUR": "red"})
    secret = "line one\nline 'two' $HOME `id`"
    outcome = contained.run(
        "sh", "-c", "cat made; ls $HOME; id -u; ls /; test \"$SECRET\" = \"$WANTED\" && echo same; echo hi > work",
        secrets={"SECRET": secret}, env={"WANTED": secret},
    )  # fmt: skip
    assert (outcome["exit_code"], outcome["pushed"], outcome["error"]) == (0, True, None)
    assert outcome["changed_files"] == ["made", "work"]
    assert git(contained.origin, "show", "taskflow/task-1-1:work") == "hi"
    lines = contained.control_plane.output(SESSION).decode().split("\n")
    assert lines[:3] == ["red", "kept", str(uid_of(contained))]
    assert "root" not in lines
    assert "same" in lines
    assert containers() == []


def test_exit_code_and_stop_pass_through_the_engine(contained: AgentRig) -> None:
    """The command's own status; and a stop that it gets as SIGTERM."""
    contained.ready()
    assert contained.run("sh", "-c", "exit 7")["exit_code"] == 7
    contained.begin(
        "sh", "-c", "trap 'echo told; exit 0' TERM; echo on; while :; do sleep 0.1; done", session_id=f"{SESSION}-2"
    )
    contained.wait_output(b"on", f"{SESSION}-2")
    contained.stop(session_id=f"{SESSION}-2")
    assert contained.outcome(f"{SESSION}-2")["outcome"] == "stopped"
    assert contained.control_plane.output(f"{SESSION}-2") == b"on\ntold\n"
    assert containers() == []


def test_the_time_limit_and_delete_end_the_container(contained: AgentRig) -> None:
    """One that ignores SIGTERM, with daemons in it: killing the engine's client alone would leave all of it running."""
    contained.ready()
    ignoring = "trap '' TERM; (setsid sleep 1000 &); echo on; while :; do sleep 0.1; done"
    assert contained.run("sh", "-c", ignoring, time_limit_s=1.0)["outcome"] == "timed_out"
    assert containers() == []
    assert users.processes_of(uid_of(contained)) == []
    contained.begin("sh", "-c", ignoring, session_id=f"{SESSION}-2")
    contained.wait_output(b"on", f"{SESSION}-2")
    uid = uid_of(contained)
    assert contained.delete(fence=2).status_code == 200
    assert containers() == []
    assert users.processes_of(uid) == []


def test_a_restarted_agent_ends_the_container_of_a_shim_that_was_killed(contained: AgentRig) -> None:
    """Agent and shim killed: the container runs on alone until the next agent removes it."""
    contained.ready()
    contained.begin("sh", "-c", "echo on; sleep 1000")
    contained.wait_output(b"on")
    shim = (read_json(contained.session_dir() / "shim.json") or {})["pid"]
    contained.kill()
    os.kill(shim, 9)
    contained.start()
    assert contained.outcome()["outcome"] == "lost"
    wait_until(lambda: not containers(), "the container is removed")
    assert users.processes_of(uid_of(contained)) == []


def test_neither_values_nor_the_tasks_variables_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client runs as root: ``LD_PRELOAD`` or ``PATH`` of a task would be its code there. Values are in no argument."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///the/agents.sock")
    monkeypatch.setenv("TASKFLOW_SECRET_KEY", "key-of-the-stack")
    confinement = Confinement(
        uid=users.UIDS[0], home="/h", tmp="/t", engine="/bin/true", image="busybox", name="taskflow-x", memory_mb=64,
        vcpus=1.5, processes=9,
    )  # fmt: skip
    task = {"LD_PRELOAD": "/evil.so", "PATH": "/evil", "DOCKER_HOST": "tcp://evil", "SECRET": "value-of-the-task"}
    made = launch(["make", "all"], task, "/tree", confinement)
    try:
        assert made.env["PATH"] == os.environ["PATH"]
        assert made.env["DOCKER_HOST"] == "unix:///the/agents.sock"
        assert not {"LD_PRELOAD", "SECRET", "TASKFLOW_SECRET_KEY"} & set(made.env)
        assert not [word for word in made.argv if "value-of-the-task" in word or "evil" in word]
        assert os.read(made.stdin, 10_000).decode().count("\n") == len(task)
    finally:
        os.close(made.stdin)
    text = " ".join(made.argv)
    for option in ("--memory 64m", "--cpus 1.5", "--pids-limit 9", f"--user {users.UIDS[0]}:{users.UIDS[0]}"):
        assert option in text
    assert made.confinement.uid is None, "the client is the agent's own"


def test_an_engine_that_is_missing_or_silent_is_refused_at_start(tmp_path: Path) -> None:
    """Named at the start, not with the first task; podman is asked first."""
    with pytest.raises(StartRefused, match="neither podman nor docker is installed"):
        find_engine({"PATH": str(tmp_path)})
    for name in ("docker", "podman"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'no daemon here' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(StartRefused, match="podman does not answer: no daemon here"):
        find_engine({"PATH": str(tmp_path)})
    (tmp_path / "podman").write_text("#!/bin/sh\n")
    assert find_engine({"PATH": str(tmp_path)}) == str(tmp_path / "podman")
