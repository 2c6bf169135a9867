"""The ways a workspace or a session can end other than well."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from taskflow.agent.git import cause_first
from taskflow.agent.store import Store
from tests.agent.rig import BOTH_WAYS, SESSION, SESSION_2, WS, WS_2, AgentRig, git
from tests.support.waiting import wait_until


@pytest.fixture(params=BOTH_WAYS)
def isolate(request: pytest.FixtureRequest) -> bool:
    """Each of these holds on nodes that isolate and on those that don't."""
    return bool(request.param)


def test_a_failed_clone_carries_gits_own_message(agent: AgentRig) -> None:
    """The cause of a failed clone reaches the control plane in git's words, with its phase."""
    agent.create(repository="/does/not/exist")
    state = agent.wait_workspace()
    assert state["status"] == "failed"
    assert state["error"]["phase"] == "clone"
    assert "/does/not/exist" in state["error"]["message"]
    assert "does not exist" in state["error"]["message"]
    told = wait_until(lambda: agent.control_plane.received(f"/workspaces/{WS}/outcome"), "the outcome")[0].body
    assert told == {"status": "failed", "base_commit": None, "error": state["error"]}


def test_what_git_gave_up_for_comes_first() -> None:
    """Who shows one line of it shows the cause; nothing of the rest is lost."""
    said = "warning: redirecting\nremote: no access\nerror: failed to push\nhint: fetch first\nfatal: it ended"
    assert cause_first(said).splitlines() == [
        "error: failed to push", "fatal: it ended", "warning: redirecting", "remote: no access", "hint: fetch first",
    ]  # fmt: skip
    assert cause_first("") == "" and cause_first("one\ntwo") == "one\ntwo"


@pytest.mark.parametrize(
    ("changes", "phase", "words"),
    [
        ({"branch": "no-such-branch"}, "clone", "no-such-branch"),
        ({"output_branch": "not..valid"}, "branch", "not..valid"),
        ({"setup_command": ["sh", "-c", "echo the reason >&2; exit 3"]}, "setup", "status 3\nthe reason"),
        ({"setup_command": ["no-such-program"]}, "setup", "no-such-program"),
        ({"setup_command": ["sleep", "60"], "provision_timeout_s": 1.5}, "setup", "not finished within 1.5 s"),
        ({"repository": "ext::sh -c true"}, "clone", "not allowed"),
        ({"repository": "--upload-pack=true"}, "clone", "--upload-pack=true"),
    ],
)
def test_a_workspace_that_cannot_be_prepared_says_why(
    agent: AgentRig, changes: dict[str, Any], phase: str, words: str
) -> None:
    """Branch, setup command, limit and forbidden transport: each failure names its phase and cause."""
    agent.create(**changes)
    state = agent.wait_workspace()
    assert state["status"] == "failed"
    assert state["error"]["phase"] == phase
    if phase == "clone":
        assert words in state["error"]["message"].splitlines()[0]
    assert words in state["error"]["message"] and "Cloning into" not in state["error"]["message"]
    wait_until(lambda: not marked(agent, WS), "nothing of the setup is left")


def uncollected(agent: AgentRig) -> list[str]:
    """Children of the agent that have ended and that it took no note of."""
    found = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    parent = str(agent.address_file()["pid"])
    return [name for name, _, rest in found if rest.split()[0] == "Z" and rest.split()[1] == parent]


def test_nothing_is_left_of_a_shim_that_ended(agent: AgentRig) -> None:
    """One that ended by itself, one whose workspace was deleted under it: a node that lives for long has many."""
    agent.ready()
    agent.run("true")
    agent.ready(WS_2)
    agent.session("sleep", "1000", workspace_id=WS_2, session_id=SESSION_2)
    for workspace_id in (WS, WS_2):
        agent.delete(workspace_id)
    wait_until(lambda: not uncollected(agent), "every child that ended is collected")


def marked(agent: AgentRig, workspace_id: str) -> list[int]:
    """Processes of a workspace."""
    found = []
    for pid in agent.leftovers():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"TASKFLOW_WORKSPACE_ID={workspace_id}".encode() in environ.split(b"\0"):
            found.append(pid)
    return found


def test_an_empty_repository_is_a_clear_failure(agent: AgentRig, tmp_path: Path) -> None:
    """A repository without a commit can't be a base."""
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "--quiet")
    agent.create(repository=str(empty))
    assert agent.wait_workspace()["status"] == "failed"


def test_the_commands_exit_code_is_reported(agent: AgentRig) -> None:
    """A failing command keeps its exit code, and what it changed is kept as well."""
    agent.ready()
    outcome = agent.run("sh", "-c", "echo half > x; exit 7")
    assert (outcome["outcome"], outcome["exit_code"]) == ("exited", 7)
    assert outcome["changed_files"] == ["x"]
    assert outcome["duration_s"] is not None


def test_a_command_killed_by_a_signal_shows_the_signal(agent: AgentRig) -> None:
    """Death by signal N is exit code -N."""
    agent.ready()
    assert agent.run("sh", "-c", "kill -9 $$")["exit_code"] == -9


def test_a_command_that_cannot_start_ends_with_127(agent: AgentRig) -> None:
    """ENOENT is an outcome of the session, with the reason in error and in the output."""
    agent.ready()
    outcome = agent.run("no-such-program")
    assert (outcome["outcome"], outcome["exit_code"]) == ("exited", 127)
    assert outcome["error"]["phase"] == "start"
    assert "no-such-program" in outcome["error"]["message"]
    assert b"no-such-program" in agent.control_plane.output(SESSION)


def test_the_time_limit_ends_the_command_and_keeps_its_work(agent: AgentRig) -> None:
    """At its limit the command gets SIGTERM; the outcome is timed_out and the work so far is committed."""
    agent.ready()
    began = time.monotonic()
    outcome = agent.run("sh", "-c", "echo partial > x; sleep 100", time_limit_s=1.0)
    assert time.monotonic() - began < 15
    assert (outcome["outcome"], outcome["exit_code"]) == ("timed_out", None)
    assert outcome["changed_files"] == ["x"]
    assert outcome["pushed"] is True


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(agent: AgentRig) -> None:
    """SIGTERM ignored: SIGKILL follows, and the outcome is the same."""
    agent.ready()
    agent.begin("sh", "-c", "trap '' TERM; echo trapped; while :; do sleep 0.1; done")
    agent.wait_output(b"trapped")
    assert agent.stop().status_code == 200
    assert agent.outcome()["outcome"] == "stopped"


def test_stop_ends_the_session_without_a_commit(agent: AgentRig) -> None:
    """A stopped session reports ``stopped``, commits nothing, and can be stopped again."""
    agent.ready()
    agent.begin("sh", "-c", "echo partial > x; echo started; sleep 100")
    agent.wait_output(b"started")
    assert agent.stop().status_code == 200
    outcome = agent.outcome()
    assert (outcome["outcome"], outcome["commit"], outcome["pushed"]) == ("stopped", None, False)
    assert agent.stop().json()["status"] == "ended"
    assert agent.control_plane.output(SESSION) == b"started\n"


def test_a_killed_shim_is_a_lost_session(agent: AgentRig) -> None:
    """Without its shim nobody knows how the command ended: lost, and the command does not go on unseen."""
    agent.ready()
    agent.begin("sh", "-c", "echo $$; exec sleep 100")
    agent.wait_output(b"\n")
    command_lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in marked(agent, WS)}
    shims = [pid for pid, words in command_lines.items() if b"taskflow.agent.shim" in words]
    assert len(shims) == 1
    os.kill(shims[0], 9)
    assert agent.outcome()["outcome"] == "lost"
    wait_until(lambda: not marked(agent, WS), "the command is gone")


def test_a_refused_push_keeps_the_commit_and_says_why(agent: AgentRig) -> None:
    """The origin's refusal is reported in git's words; commit and output branch are still told."""
    agent.ready()
    hook = agent.origin / ".git/hooks/update"
    hook.write_text("#!/bin/sh\necho the origin says no >&2\nexit 1\n")
    hook.chmod(0o755)
    outcome = agent.run("sh", "-c", "echo hi > x")
    assert outcome["commit"]
    assert outcome["pushed"] is False
    assert outcome["error"]["phase"] == "push"
    assert "the origin says no" in outcome["error"]["message"]


def test_a_push_that_fails_at_first_is_repeated(agent: AgentRig, tmp_path: Path) -> None:
    """An origin that refuses twice and then takes it: pushed, and no error is left."""
    agent.ready()
    hook = agent.origin / ".git/hooks/update"
    hook.write_text(f"#!/bin/sh\necho x >> {tmp_path}/tries\n[ $(wc -l < {tmp_path}/tries) = 3 ]\n")
    hook.chmod(0o755)
    outcome = agent.run("sh", "-c", "echo hi > x")
    assert (outcome["pushed"], outcome["error"]) == (True, None)
    assert (tmp_path / "tries").read_text() == "x\nx\nx\n"


def test_changed_files_keep_their_names_and_are_bounded(agent: AgentRig) -> None:
    """Spaces, umlauts and newlines arrive unquoted; a flood of files is cut at a thousand."""
    agent.ready()
    outcome = agent.run("sh", "-c", 'echo > "a ä"; echo > "b\nc"; mkdir z; for i in $(seq 1200); do : > z/$i; done')
    assert outcome["changed_files"][:2] == ["a ä", "b\nc"]
    assert len(outcome["changed_files"]) == 1000


def test_the_origins_own_branch_is_never_pushed_to(agent: AgentRig) -> None:
    """An output branch that is the cloned or the default branch is refused, whatever the order says."""
    git(agent.origin, "config", "receive.denyCurrentBranch", "ignore")
    before = git(agent.origin, "rev-parse", "main")
    agent.ready(output_branch="main")
    outcome = agent.run("sh", "-c", "echo hi > x")
    assert (outcome["pushed"], outcome["error"]["phase"]) == (False, "push")
    assert git(agent.origin, "rev-parse", "main") == before


def test_someone_elses_work_on_the_output_branch_is_not_overwritten(agent: AgentRig) -> None:
    """The push is never forced: a branch that moved on stays as it is."""
    agent.ready()
    git(agent.origin, "checkout", "--quiet", "-b", "taskflow/task-1-1")
    git(agent.origin, "commit", "--quiet", "--allow-empty", "--message", "someone else")
    git(agent.origin, "checkout", "--quiet", "main")
    theirs = git(agent.origin, "rev-parse", "taskflow/task-1-1")
    outcome = agent.run("sh", "-c", "echo hi > x")
    assert outcome["pushed"] is False
    assert git(agent.origin, "rev-parse", "taskflow/task-1-1") == theirs


def test_hooks_that_the_command_left_do_not_run(agent: AgentRig, tmp_path: Path) -> None:
    """A tampered clone can't make the agent's own git run hooks or push elsewhere."""
    agent.ready()
    elsewhere = tmp_path / "elsewhere"
    git(tmp_path, "init", "--quiet", "--bare", str(elsewhere))
    hook = f"printf '#!/bin/sh\\ntouch {tmp_path}/hooked\\n'"
    script = f"""
    for name in pre-commit commit-msg post-commit pre-push post-index-change; do
        {hook} > .git/hooks/$name; chmod +x .git/hooks/$name
    done
    git config remote.origin.url {elsewhere}; touch .git/index.lock; echo hi > x
    """
    outcome = agent.run("sh", "-c", script)
    assert outcome["pushed"] is True, outcome
    assert not (tmp_path / "hooked").exists()
    assert git(agent.origin, "rev-parse", "taskflow/task-1-1") == outcome["commit"]
    assert git(elsewhere, "for-each-ref") == ""


def test_a_clone_without_its_git_directory_is_a_commit_error(agent: AgentRig) -> None:
    """A command that removed .git: the session ended, its error names the commit, no repository above is touched."""
    agent.ready()
    outcome = agent.run("sh", "-c", "rm -rf .git; echo hi > x")
    assert (outcome["exit_code"], outcome["commit"], outcome["error"]["phase"]) == (0, None, "commit")


def test_everything_a_session_started_is_gone_after_delete(agent: AgentRig) -> None:
    """setsid, double fork and a cleared environment don't help: delete leaves no process and no file."""
    agent.ready()
    # A length of their own tells these sleeps from those of other test processes.
    lengths = [f"{number}.{os.getpid()}" for number in (1001, 1002, 1003, 1004)]
    agent.begin(
        "sh",
        "-c",
        'setsid sh -c "sleep $1 & sleep $2" & (setsid env -i sleep $3 &) ; echo on; sleep $4',
        "sh",
        *lengths,
    )
    agent.wait_output(b"on")

    def sleepers() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0] == b"sleep" and words[1].decode() in lengths:
                found.append(path.parent.name)
        return found

    wait_until(lambda: len(sleepers()) == 4, "all four sleep")
    assert agent.delete(fence=2).status_code == 200
    assert sleepers() == []
    assert not (agent.root / f"workspaces/{WS}").exists()
    wait_until(lambda: not marked(agent, WS), "no process of the workspace")


def test_what_a_command_leaves_running_ends_with_its_session(agent: AgentRig) -> None:
    """The session ends when its command ends, also when a child of it holds the output open."""
    agent.ready()
    outcome = agent.run("sh", "-c", "setsid sleep 100 & echo done")
    assert outcome["exit_code"] == 0
    assert agent.control_plane.output(SESSION) == b"done\n"
    wait_until(lambda: not marked(agent, WS), "nothing runs on")


def test_delete_during_provisioning_ends_it(agent: AgentRig) -> None:
    """A workspace that is being prepared is deleted at once, with the setup command that ran."""
    agent.create(setup_command=["sh", "-c", "setsid sleep 100 & sleep 100"])
    wait_until(lambda: len(marked(agent, WS)) >= 3, "the setup runs")
    assert agent.delete(fence=2).json()["status"] == "deleted"
    wait_until(lambda: not marked(agent, WS), "the setup is gone")
    assert not agent.control_plane.received(f"/workspaces/{WS}/outcome")


def test_a_deletion_that_was_cut_short_is_ended_by_the_next_agent(agent: AgentRig) -> None:
    """Killed after the tombstone and before the removal: the next agent ends session and files and reports nothing."""
    agent.ready()
    agent.begin("sh", "-c", "echo on; sleep 1000")
    agent.wait_output(b"on")
    agent.kill()
    store = Store(agent.root / "agent.db")
    store.bury(WS, 2)
    store.close()
    agent.start()
    wait_until(lambda: not (agent.root / "workspaces" / WS).exists(), "the directory is removed")
    wait_until(lambda: not marked(agent, WS), "the session is gone")
    beats = len(agent.control_plane.received("/heartbeat"))
    wait_until(lambda: len(agent.control_plane.received("/heartbeat")) > beats + 1, "two more heartbeats")
    assert not agent.control_plane.received(f"/sessions/{SESSION}/outcome")


def test_a_read_only_tree_is_deleted(agent: AgentRig) -> None:
    """Directories a command made unwritable don't survive delete."""
    agent.ready()
    agent.run("sh", "-c", "mkdir -p d/e; touch d/e/f; chmod 500 d/e d", push=False)
    assert agent.delete(fence=2).status_code == 200
    assert not (agent.root / f"workspaces/{WS}").exists()
