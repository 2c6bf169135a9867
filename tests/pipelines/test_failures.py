"""Failures say what went wrong in the words of its cause, and are cleaned up like successes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from taskflow.db.models import SignalRow, Workspace
from taskflow.errors import Conflict, Gone
from taskflow.vault import Vault
from tests.support.fake_agent import FAILED, READY, outcome
from tests.support.world import START, World
from tests.support.world_fixtures import MakeWorld


@pytest.fixture
def hasty_world(make_world: MakeWorld) -> World:
    """A world that waits minutes, not an hour."""
    return make_world(
        workspace_bootstrap_s=100.0, workspace_ready_timeout_s=200.0, cleanup_timeout_s=200.0, liveness_poll_s=60.0
    )


def failed(world: World, **spec: Any) -> dict[str, Any]:
    """Submit, wait for the failure, check that nothing is left; the error."""
    task = world.submit(**spec)
    done = world.finish(task)
    assert done["status"] == "failed"
    world.assert_settled()
    error: dict[str, Any] = done["error"]
    return error


def test_a_failed_workspace_carries_the_agents_own_message(world: World) -> None:
    """What git said is what the user reads."""
    world.plan.workspace_error = {
        "code": "git", "phase": "clone", "message": "fatal: repository '/srv/repo' does not exist",
    }  # fmt: skip
    error = failed(world)
    assert (error["code"], error["message"]) == ("workspace_failed", "fatal: repository '/srv/repo' does not exist")
    assert error["detail"] == {"phase": "clone", "cause": "git"}
    assert error["step"] == "workspace_ready"
    assert "address and the branch" in error["advice"]
    world.plan.workspace_error = {"code": "setup_failed", "phase": "setup", "message": "make ended with status 2"}
    assert "advice" not in failed(world)


PUSH = {"code": "git", "phase": "push", "message": "remote: permission denied"}
ENOENT = {"code": "start", "phase": "start", "message": "[Errno 2] No such file or directory: 'nope'"}


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        ({"outcome": "exited", "exit_code": 1}, "command_failed", "the command exited with status 1"),
        ({"outcome": "timed_out"}, "command_timed_out", "the command was stopped at its time limit"),
        ({"outcome": "lost"}, "session_lost", "the session's end was not seen: its machine or supervisor went away"),
        ({"outcome": "stopped"}, "session_stopped", "the command was stopped"),
        ({"outcome": "exited", "exit_code": 0, "error": PUSH}, "push_failed", PUSH["message"]),
        ({"outcome": "exited", "exit_code": 127, "error": ENOENT}, "command_failed", ENOENT["message"]),
    ],
)
def test_each_bad_end_of_a_command_is_a_failure_of_its_own(
    world: World, said: dict[str, Any], code: str, message: str
) -> None:
    """The code is stable, the message is the cause's."""
    world.plan.outcome = said
    error = failed(world)
    assert (error["code"], error["message"]) == (code, message)


def test_work_of_a_failed_command_is_kept(world: World) -> None:
    """A command that fails may have committed something: the task still names branch, commit and exit status."""
    world.plan.outcome = {"outcome": "exited", "exit_code": 3, "commit": "abc", "changed_files": ["a"]}
    task = world.submit()
    result = world.finish(task)["result"]
    assert (result["exit_code"], result["commit"], result["changed_files"]) == (3, "abc", ["a"])


def test_a_lost_node_fails_its_task_and_a_late_result_is_kept_beside_the_verdict(world: World) -> None:
    """Two signs of death end the task; a result that comes after all is stored and offered, the status stays."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    agent = world.agent
    (workspace_id, workspace), session_id = next(iter(agent.workspaces.items())), next(iter(agent.sessions))
    agent.alive = False
    world.provider.states[agent.order.label] = "stopped"
    done = world.finish(task)
    assert (done["status"], done["error"]["code"]) == ("failed", "node_lost")

    caller = world.service.accounts.authenticate(workspace["token"], "workspace")
    late = outcome("exited", exit_code=0, commit="beef")
    for _ in range(2):
        said = world.service.callbacks.session_outcome(caller, workspace_id, session_id, late)
        assert said == {"recorded": True, "late": True}

    after = world.task(task["id"])
    assert (after["status"], after["late_result"]["commit"]) == ("failed", "beef")
    with pytest.raises(Gone):
        world.service.callbacks.session_outcome(caller, workspace_id, session_id, outcome("exited", exit_code=1))


def test_a_silent_node_that_may_live_is_not_given_up(world: World) -> None:
    """No heartbeat alone is no verdict: the agent still answers, so the task goes on."""
    world.plan.session_s = None
    task = world.submit()
    world.at_step(task, "running")
    world.plan.beating = False
    world.run_for(300)
    assert world.task(task["id"])["status"] == "in_progress"
    world.agent.finish_session(next(iter(world.agent.sessions)))
    assert world.finish(task)["status"] == "completed"


@pytest.mark.parametrize("ending", ["/workspaces/", "/sessions/"])
def test_an_agent_that_is_away_for_a_while_is_asked_again_until_it_is_back(world: World, ending: str) -> None:
    """Each refused request is recorded; the first one that gets through goes on as if nothing had been."""

    def away(method: str, path: str) -> None:
        if method == "PUT" and ending in path and time.time() < START + 120:
            raise requests.ConnectionError("connection refused")

    world.wire.before = away
    task = world.submit()
    assert world.finish(task)["status"] == "completed"
    assert set(world.errors(task["run_id"])) == {"agent_unreachable"}
    world.assert_settled()


@pytest.mark.parametrize("ending", ["/workspaces/", "/sessions/"])
def test_an_answer_that_got_lost_is_asked_for_again_and_done_once(world: World, ending: str) -> None:
    """A read timeout says nothing about what happened; the id makes the repeat harmless."""
    lost: list[str] = []

    def lose(method: str, path: str) -> None:
        if method == "PUT" and ending in path and len(lost) < 3:
            lost.append(path)
            raise requests.ReadTimeout("no answer")

    world.wire.after = lose
    task = world.submit()
    assert world.finish(task)["status"] == "completed"
    assert world.errors(task["run_id"]) == ["agent_timeout"] * 3
    world.assert_settled()


@pytest.mark.parametrize(("ending", "code"), [("/workspaces/", "workspace_failed"), ("/sessions/", "command_failed")])
def test_what_was_reported_counts_although_the_node_was_gone_before_its_answer_came(
    world: World, ending: str, code: str
) -> None:
    """The report answers the request as well: the failure is the workspace's or the command's own, not the node's."""
    died: list[str] = []

    def die(method: str, path: str) -> None:
        if method != "PUT" or ending not in path or died:
            return
        died.append(path)
        agent, callbacks = world.agent, world.service.callbacks
        workspace_id, workspace = next(iter(agent.workspaces.items()))
        caller = world.service.accounts.authenticate(workspace["token"], "workspace")
        if code == "workspace_failed":
            callbacks.workspace_outcome(caller, workspace_id, FAILED)
        else:
            callbacks.session_outcome(caller, workspace_id, next(iter(agent.sessions)), outcome("exited", exit_code=1))
        agent.alive = False
        agent.workspaces.clear()  # what was on the machine went with it
        world.provider.states[agent.order.label] = "stopped"
        raise requests.ReadTimeout("no answer")

    world.wire.after = die
    error = failed(world)
    assert (error["code"], len(died)) == (code, 1)


@pytest.mark.parametrize(("status", "code"), [(409, "conflict"), (410, "deleted")])
def test_a_final_refusal_of_the_agent_is_not_repeated(world: World, status: int, code: str) -> None:
    """409 and 410 can't become right by asking again."""
    world.wire.before = lambda method, path: (
        (status, {"code": code, "message": "no"}) if method == "PUT" and "/sessions/" in path else None
    )
    error = failed(world)
    assert error["code"] == f"agent_{code}"
    assert world.wire.made("PUT", "/sessions/") == 1


def test_a_ready_callback_that_never_comes_is_asked_for_once_and_then_named(hasty_world: World) -> None:
    """The failure says what was awaited, since when and until when, and what the node said."""
    world = hasty_world
    world.plan.workspace_s = None
    error = failed(world)
    assert error["code"] == "step_timeout"
    assert "says that it is creating" in error["message"]
    assert error["detail"]["awaited"] == "workspace_outcome"
    assert error["detail"]["until"] - error["detail"]["since"] == world.settings.workspace_ready_timeout_s
    assert world.wire.made("GET", "/v1/workspaces/") == 1


def test_a_missing_callback_of_a_node_that_cant_be_asked_is_named_too(hasty_world: World) -> None:
    """That the one question failed does not hide what was awaited."""
    world = hasty_world
    world.plan.workspace_s = None

    def away(method: str, path: str) -> None:
        if method == "GET":
            raise requests.ConnectTimeout("no route")

    world.wire.before = away
    error = failed(world)
    assert (error["code"], error["detail"]["awaited"]) == ("step_timeout", "workspace_outcome")
    assert "can't be asked" in error["message"]


def test_a_lost_ready_callback_is_made_up_for_by_asking(hasty_world: World) -> None:
    """The node's answer counts like its callback."""
    world = hasty_world
    world.plan.workspace_s = None
    task = world.submit()
    world.at_step(task, "workspace_ready")
    world.agent.finish_workspace(next(iter(world.agent.workspaces)), tell=False)
    assert world.finish(task)["status"] == "completed"


def test_after_the_node_was_asked_its_late_callback_is_a_repeat_and_another_answer_a_contradiction(
    hasty_world: World,
) -> None:
    """The run went on with "ready": a later "failed" must not be accepted as if it counted."""
    world = hasty_world
    world.plan.workspace_s, world.plan.session_s = None, None
    task = world.submit()
    world.at_step(task, "workspace_ready")
    workspace_id, workspace = next(iter(world.agent.workspaces.items()))
    world.agent.finish_workspace(workspace_id, tell=False)
    world.at_step(task, "running")
    caller = world.service.accounts.authenticate(workspace["token"], "workspace")
    said = {**READY, "base_commit": "ba5e"}
    with pytest.raises(Conflict) as refused:
        world.service.callbacks.workspace_outcome(caller, workspace_id, FAILED)
    assert refused.value.detail["stored"] == said
    assert world.service.callbacks.workspace_outcome(caller, workspace_id, said) == {"recorded": True}
    assert world.count(Workspace, Workspace.status == "ready", Workspace.ready_at.is_not(None)) == 1
    assert world.count(SignalRow, SignalRow.consumed_at.is_(None)) == 0


def test_a_callback_that_comes_while_the_node_is_asked_counts_before_its_answer(hasty_world: World) -> None:
    """The sender heard "recorded": the turn reads again instead of going on with what it was told."""
    world = hasty_world
    world.plan.workspace_s = None
    task = world.submit()
    world.at_step(task, "workspace_ready")
    workspace_id, workspace = next(iter(world.agent.workspaces.items()))
    world.agent.finish_workspace(workspace_id, tell=False)
    caller = world.service.accounts.authenticate(workspace["token"], "workspace")
    sent: list[str] = []

    def land(run_id: str, name: str) -> None:
        asked = world.wire.made("GET", "/v1/workspaces/") > 0
        if (run_id, name) == (task["run_id"], "performed:workspace_ready") and asked and not sent:
            sent.append(name)
            world.service.callbacks.workspace_outcome(caller, workspace_id, FAILED)

    world.at_checkpoint = land
    ended = world.finish(task)
    assert (sent, ended["status"], ended["error"]["code"]) == (
        ["performed:workspace_ready"],
        "failed",
        "workspace_failed",
    )
    assert world.agent.started.total() == 0


def test_a_lost_outcome_is_made_up_for_by_asking(world: World) -> None:
    """Past its time limit the session's node is asked once."""
    world.plan.session_s = None
    task = world.submit(time_limit_s=30.0)
    world.at_step(task, "running")
    world.agent.finish_session(next(iter(world.agent.sessions)), tell=False)
    assert world.finish(task)["status"] == "completed"


def test_an_outcome_that_was_asked_for_holds_no_secret(world: World) -> None:
    """The node's answer is masked like a report."""
    world.plan.session_s = None
    world.plan.outcome = {"outcome": "exited", "exit_code": 0, "commit": "abc", "changed_files": ["s3cret-value.txt"]}
    task = world.submit(time_limit_s=30.0, secrets={"TOKEN": "s3cret-value"})
    world.at_step(task, "running")
    world.agent.finish_session(next(iter(world.agent.sessions)), tell=False)
    assert world.finish(task)["result"]["changed_files"] == ["***.txt"]


def test_a_session_that_never_reports_is_lost_and_its_late_result_is_kept(world: World) -> None:
    """After time limit and grace the node is asked; it knows no outcome: lost, with advice."""
    world.plan.session_s = None
    task = world.submit(time_limit_s=60.0)
    done = world.finish(task)
    assert done["error"]["code"] == "session_lost"
    assert "taskflow rerun" in done["error"]["advice"]


def test_secrets_of_another_key_fail_with_what_to_do(world: World) -> None:
    """A wrong secret key is said at once, not after the step's limit as a mere timeout."""
    task = world.submit(secrets={"TOKEN": "s3cret-value"})
    object.__setattr__(world.app.tools, "vault", _WrongKey(world.app.tools.vault))
    done = world.finish(task)
    assert done["error"]["code"] == "secret_key"
    assert "TASKFLOW_SECRET_KEY" in done["error"]["advice"]


class _WrongKey:
    """Derives the tokens of the installation, but can't open what it sealed."""

    def __init__(self, vault: Vault) -> None:
        self.derive_token = vault.derive_token
        self.decrypt = Vault("another-key-of-some-length").decrypt


def test_a_cleanup_that_gives_up_does_not_hide_the_cause(hasty_world: World) -> None:
    """The run's own error says that the workspace may be left; the task keeps why it failed."""
    world = hasty_world
    world.plan.outcome = {"outcome": "exited", "exit_code": 1}

    def away(method: str, path: str) -> None:
        if method == "DELETE":
            raise requests.ConnectionError("connection refused")

    world.wire.before = away
    task = world.submit()
    done = world.finish(task)
    assert done["error"]["code"] == "command_failed"
    assert world.run_row(task).error["code"] == "cleanup_failed"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_a_task_has_ended_before_its_cleanup_begins(world: World, end: str) -> None:
    """Whatever becomes of the cleanup, the task's end is written and its slot is the only thing that may be late."""
    world.plan.outcome = {"outcome": "exited", "exit_code": int(end == "failed")}
    task = world.submit()
    if end == "cancelled":
        world.at_step(task, "workspace_ready")
        world.cancel(task["id"])
    seen: list[str] = []

    def look(run_id: str, name: str) -> None:
        if (run_id, name) == (task["run_id"], "perform:cleanup"):
            seen.append(world.task(task["id"])["status"])

    world.at_checkpoint = look
    world.finish(task)
    assert seen == [end]


def test_a_bug_in_a_step_is_tried_a_few_times_and_then_reported(world: World) -> None:
    """An unexpected exception never loses a run."""

    def raise_something(method: str, path: str) -> None:
        if method == "PUT":
            raise ZeroDivisionError("a bug")

    world.wire.before = raise_something
    task = world.submit()
    world.run_until(lambda: "unexpected" in world.errors(task["run_id"]), "the bug is recorded")
    world.wire.before = lambda method, path: None
    assert world.finish(task)["status"] == "completed"
