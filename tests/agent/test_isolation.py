"""Workspaces of an isolated node, kept from the node and from each other. For real: as root, with real users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow.agent import users
from taskflow.agent.isolation import Isolation
from taskflow.agent.places import Places, read_json
from taskflow.agent.problems import StartRefused
from taskflow.agent.processes import is_alive
from tests.agent.control_plane import FakeControlPlane
from tests.agent.rig import SESSION, WS, AgentRig, git
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can isolate")

CANARY = "canary-of-the-agent"
OTHER = f"{WS}-other"


@pytest.fixture
def isolate() -> bool:
    """All of these are about isolated nodes."""
    return True


@pytest.fixture
def guarded(tmp_path: Path, control_plane: FakeControlPlane) -> Iterator[AgentRig]:
    """A running agent whose user has credentials in the environment and in files."""
    rig = AgentRig(tmp_path, control_plane, isolate=True)
    rig.host_env = {"GIT_TOKEN": CANARY, "SSH_AUTH_SOCK": str(tmp_path / "home" / "agent.sock")}
    (rig.home / ".git-credentials").write_text(f"https://{CANARY}@example.org\n")
    rig.home.chmod(0o700)
    yield rig.start()
    rig.close()


def uid_of(agent: AgentRig, workspace_id: str = WS) -> int:
    """The number of a workspace's user."""
    found = read_json(agent.root / "workspaces" / workspace_id / "confinement.json") or {}
    return int(found["uid"])


def script(*lines: str) -> tuple[str, str, str]:
    """A session's command."""
    return ("sh", "-c", "\n".join(lines))


def test_a_session_reads_nothing_that_is_not_its_own(guarded: AgentRig) -> None:
    """Order, database, the clean clone, its own shim's files, credentials, other workspaces, environments: all closed."""
    guarded.ready()
    guarded.ready(OTHER, setup_command=["sh", "-c", f"echo {CANARY} > secret; chmod 666 secret; echo x > $HOME/secret"])
    root, other = guarded.root, guarded.root / "workspaces" / OTHER
    closed = [
        root, root / "workspaces", root / "order.json", root / "agent.db", root / "agent.db-wal", root / "agent.json",
        root / "workspaces" / WS, root / "workspaces" / WS / "clean", guarded.session_dir(), guarded.session_dir().parent,
        root / "workspaces" / WS / "confinement.json", other, other / "repo", other / "repo/secret", other / "home",
        other / "clean/.git/config", guarded.home, guarded.home / ".git-credentials",
    ]  # fmt: skip
    assert all(path.exists() for path in closed if path != guarded.session_dir().parent and SESSION not in str(path))
    outcome = guarded.run(
        *script(
            *(f"if ls '{path}' && cat '{path}'; then echo OPEN '{path}'; fi" for path in map(str, closed[:3])),
            *(f"if cat '{path}' || ls '{path}/'; then echo OPEN '{path}'; fi" for path in map(str, closed)),
            "cat /proc/[0-9]*/environ | tr '\\0' '\\n'",
            "env; id",
        )
    )
    assert outcome["exit_code"] == 0
    output = guarded.control_plane.output(SESSION).decode()
    assert "OPEN" not in output
    assert "Permission denied" in output
    for secret in (CANARY, "agent-token-for-tests", "stack-secret-key", "SSH_AUTH_SOCK"):
        assert secret not in output, secret
    uid = uid_of(guarded)
    assert f"uid={uid} gid={uid} groups={uid}" in output
    assert f"HOME={root}/workspaces/{WS}/home" in output.split("\n")


def test_a_session_signals_neither_the_agent_nor_other_workspaces(guarded: AgentRig) -> None:
    """SIGKILL to everybody: only the session itself is hit."""
    guarded.ready()
    guarded.ready(OTHER)
    guarded.begin("sleep", "1000", workspace_id=OTHER, session_id=f"{SESSION}-other")
    theirs = wait_until(lambda: users.processes_of(uid_of(guarded, OTHER)), "the other session runs")
    assert guarded.process is not None
    outcome = guarded.run(
        *script(f"kill -9 {guarded.process.pid} $PPID {theirs[0]}; kill -s KILL -- -1; echo survived")
    )
    assert outcome["exit_code"] == 0
    assert guarded.process.poll() is None
    assert is_alive(theirs[0])
    assert guarded.session_state(OTHER, f"{SESSION}-other")["status"] == "running"


def test_what_a_session_writes_into_its_repository_runs_as_its_user_alone(guarded: AgentRig, tmp_path: Path) -> None:
    """Filters, hooks, monitors, helpers, includes, aliases of URLs: none of them runs with the agent's rights."""
    notes = tmp_path / "notes"
    notes.mkdir()
    notes.chmod(0o777)
    guarded.ready()
    outcome = guarded.run(
        *script(
            f"printf '#!/bin/sh\\nid -u >> {notes}/ran-$(basename $0)\\ncat\\n' > $HOME/evil; chmod 755 $HOME/evil",
            f"chmod 711 $HOME {guarded.root}/workspaces/{WS}/repo",
            "for name in filter fsmonitor ssh credential gpg editor external textconv packhook; do",
            "  ln -s evil $HOME/$name; done",
            "git config filter.evil.clean $HOME/filter; git config filter.evil.smudge $HOME/filter",
            "git config filter.evil.required true; git config core.fsmonitor $HOME/fsmonitor",
            "git config core.sshCommand $HOME/ssh; git config credential.helper $HOME/credential",
            "git config commit.gpgSign true; git config gpg.program $HOME/gpg; git config core.editor $HOME/editor",
            "git config diff.external $HOME/external; git config diff.evil.textconv $HOME/textconv",
            "git config diff.evil.command $HOME/external; git config uploadpack.packObjectsHook $HOME/packhook",
            "git config protocol.ext.allow always; git config remote.origin.url ext::$HOME/ssh",
            f"git config url.ext::$HOME/ssh.insteadOf {guarded.origin}",
            "printf '[core]\\n\\tpager = %s\\n' $HOME/editor > .git/more; git config include.path more",
            "git config core.hooksPath .git/hooks; for hook in pre-commit post-commit pre-push reference-transaction",
            "do cp $HOME/evil .git/hooks/$hook; done",
            f"echo {guarded.root}/workspaces/{OTHER}/repo/.git/objects > .git/objects/info/alternates",
            "echo '* filter=evil diff=evil merge=evil' > .gitattributes",
            "echo hi > work",
        )
    )
    assert (outcome["pushed"], outcome["error"]) == (True, None)
    assert git(guarded.origin, "show", "taskflow/task-1-1:work") == "hi"
    ran = {path.name: set(path.read_text().split()) for path in notes.iterdir()}
    assert "ran-filter" in ran, "the trap was never stepped on, so this shows nothing"
    assert {uid for uids in ran.values() for uid in uids} == {str(uid_of(guarded))}, ran


@pytest.mark.parametrize(
    "trap",
    [
        "rm -rf .git; ln -s ../clean/.git .git",
        "rm -rf .git; echo 'gitdir: ../clean/.git' > .git",
        "rm -rf .git/objects; ln -s ../../clean/.git/objects .git/objects",
    ],
)
def test_a_repository_that_points_at_the_agents_changes_nothing_there(guarded: AgentRig, trap: str) -> None:
    """Links to the clean clone: the commit fails as the user, nothing is pushed."""
    guarded.ready()
    clean = guarded.root / "workspaces" / WS / "clean"
    (clean / ".git/index.lock").touch()
    outcome = guarded.run(*script(trap, "echo hi > x"))
    assert (outcome["pushed"], outcome["commit"]) == (False, None)
    assert outcome["error"]["phase"] == "commit"
    assert (clean / ".git/index.lock").exists()
    assert git(clean, "for-each-ref", "refs/taskflow") == ""


def test_the_users_daemons_end_with_its_session(guarded: AgentRig) -> None:
    """Twice forked, in a session of their own and with a cleaned environment: they end, and their next ones as well."""
    guarded.ready(setup_command=["sh", "-c", "(setsid env -i sleep 1000 &)"])
    assert users.processes_of(uid_of(guarded)) == []
    breeding = "setsid env -i sh -c 'while :; do sleep 1000 & sleep 0.02; done' &"
    assert guarded.run(*script(f"({breeding})", "sleep 0.3", "echo done"))["exit_code"] == 0
    assert users.processes_of(uid_of(guarded)) == []


def test_a_killed_shim_leaves_nothing_of_the_user(guarded: AgentRig) -> None:
    """Nobody follows the command any more: the agent ends all that run as its user."""
    guarded.ready()
    guarded.begin(*script("(setsid env -i sleep 1000 &)", "echo on; sleep 1000"))
    guarded.wait_output(b"on")
    shim = (read_json(guarded.session_dir() / "shim.json") or {})["pid"]
    os.kill(shim, 9)
    assert guarded.outcome()["outcome"] == "lost"
    assert users.processes_of(uid_of(guarded)) == []


def test_delete_leaves_neither_processes_nor_files_of_the_user(guarded: AgentRig, tmp_path: Path) -> None:
    """Below the root nor in public directories anything is left that the number's next holder would own."""
    guarded.ready()
    uid = uid_of(guarded)
    mark = f"taskflow-test-{os.getpid()}"
    aside = tmp_path / "aside"
    aside.mkdir()
    (aside / "kept").touch()
    guarded.begin(
        *script(
            f"mkdir -p /tmp/{mark}/a /dev/shm/{mark}; echo x > /tmp/{mark}/a/x; ln -s {aside} /var/tmp/{mark}",
            f"ln -s {aside} /tmp/{mark}/link; chmod 000 /tmp/{mark}/a; ipcmk -M 4096",
            "(setsid env -i sleep 1000 &)",
            "echo on; sleep 1000",
        )
    )
    guarded.wait_output(b"on")
    assert Path(f"/tmp/{mark}").exists()
    assert guarded.delete(fence=2).status_code == 200
    assert users.processes_of(uid) == []
    left = [path for name in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(name).iterdir() if path.name == mark]
    assert left == []
    assert (aside / "kept").exists()
    assert not [line for line in Path("/proc/sysvipc/shm").read_text().splitlines() if f" {uid} " in line]
    assert not (guarded.root / "workspaces" / WS).exists()


def test_a_restarted_agent_knows_whose_processes_are_whose(guarded: AgentRig) -> None:
    """The user is written down before it is used: the next agent follows, ends and deletes by the same number."""
    guarded.ready()
    uid = uid_of(guarded)
    guarded.begin(*script("(setsid env -i sleep 1000 &)", "echo on; sleep 1000"))
    guarded.wait_output(b"on")
    guarded.kill()
    guarded.start()
    assert uid_of(guarded) == uid
    assert guarded.session_state()["status"] == "running"
    assert len(users.processes_of(uid)) == 3
    assert guarded.delete(fence=2).status_code == 200
    assert users.processes_of(uid) == []


def test_provisioning_that_was_cut_short_goes_on_as_the_same_user(guarded: AgentRig) -> None:
    """Killed during the set-up: its processes end, and the next attempt begins with empty directories."""
    once = "[ -e $HOME/seen ] && exit 9; touch $HOME/seen; setsid env -i sleep 1000 & [ -e /tmp/go ] || exec sleep 1000"
    go = f"/tmp/go-{os.getpid()}"
    guarded.create(setup_command=["sh", "-c", once.replace("/tmp/go", go)])
    wait_until(lambda: (guarded.root / "workspaces" / WS / "home/seen").exists(), "the set-up runs")
    uid = uid_of(guarded)
    guarded.kill()
    Path(go).touch()
    try:
        guarded.start()
        assert guarded.wait_workspace()["status"] == "ready"
    finally:
        Path(go).unlink()
    assert uid_of(guarded) == uid
    assert users.processes_of(uid) == []


def test_two_workspaces_are_two_users(guarded: AgentRig) -> None:
    """Neither the agent's user nor an account of the machine."""
    guarded.ready()
    guarded.ready(OTHER)
    uids = {uid_of(guarded), uid_of(guarded, OTHER)}
    assert len(uids) == 2
    assert uids <= set(users.UIDS)


def test_limits_hold_for_set_up_and_session(guarded: AgentRig) -> None:
    """Processes, open files, core files, rights and file modes."""
    guarded.ready(limits={"vcpus": None, "memory_mb": None, "processes": 30})
    guarded.begin(
        *script(
            "ulimit -c; ulimit -n; umask; grep NoNewPrivs /proc/self/status; id -G",
            "for i in $(seq 200); do sleep 1000 & done",
            "echo not bounded",
        )
    )
    uid = uid_of(guarded)
    seen = []
    wait_until(lambda: seen.append(len(users.processes_of(uid))) or guarded.session_state()["status"] == "ended", "end")  # type: ignore[func-returns-value]
    assert max(seen) <= 30
    output = guarded.control_plane.output(SESSION).decode()
    assert output.startswith("0\n")
    assert int(output.split("\n")[1]) <= 16_384
    assert output.split("\n")[2:5] == ["0077", "NoNewPrivs:\t1", str(uid)]
    assert "not bounded" not in output
    assert users.processes_of(uid) == []


def test_isolation_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordered, so somebody relies on it: an agent that is not root, or that users can't reach, does not start."""
    closed = tmp_path / "closed"
    (closed / "root/workspaces").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(StartRefused, match=f"chmod o\\+x {closed}"):
        Isolation(Places(closed / "root"), isolate=True)
    closed.chmod(0o711)
    Isolation(Places(closed / "root"), isolate=True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(StartRefused, match="only root"):
        Isolation(Places(closed / "root"), isolate=True)
    Isolation(Places(closed / "root"), isolate=False)
