"""Preparing the workspace: hand it to the node, wait for its ready callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskflow.db.workspaces import WORKSPACE_OUTCOME, dispatched_effect, start_session_effect, workspace_asked_effect
from taskflow.engine.outcomes import Advance, AwaitSignal, Effect, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError, TransientError
from taskflow.ids import session_id_of
from taskflow.nodes.admission import wish_of
from taskflow.pipelines.agent_task.shared import TaskSteps

_CHECK_CLONE = "check the repository's address and the branch, and that the node may read it (ssh key, git credential)"


class Preparation(TaskSteps):
    """workspace_dispatch, workspace_ready."""

    def dispatch(self, ctx: StepContext) -> Outcome:
        """Ask the node for the workspace. The id makes a repeat harmless; the node's tombstone refuses a late one."""
        workspace_id = ctx.results["workspace_id"]
        dispatched = Advance(ctx.next_step, effects=(dispatched_effect(workspace_id, now=ctx.now),))
        if ctx.is_recorded(WORKSPACE_OUTCOME):
            return dispatched  # its node's answer was lost; what was reported counts, also if the node is gone since
        task = self._task(ctx)
        node, wish = self._living_node(ctx), wish_of(task)
        self._tools.agent(node, ctx.now).put_workspace(
            workspace_id,
            {
                "fence": ctx.run.rev,
                "task_id": task.id,
                "run_number": ctx.run.number,
                "repository": task.repository,
                "branch": task.branch,
                "output_branch": output_branch(task.id, ctx.run.number),
                "setup_command": task.setup_command,
                "env": task.env,
                "private_hosts": self._settings.repository_private_hosts,
                "provision_timeout_s": self._settings.workspace_bootstrap_s,
                "limits": {"vcpus": wish.vcpus or None, "memory_mb": wish.memory_mb or None},
                "callback_token": self._tools.vault.derive_token("workspace", workspace_id),
            },
        )
        return dispatched

    def await_ready(self, ctx: StepContext) -> Outcome:
        """Until the node says ready or failed. The callback may have come before this step was reached."""
        signal = ctx.take(WORKSPACE_OUTCOME)
        if signal is not None:
            return self._answered(ctx, signal.payload)
        self._living_node(ctx)
        return AwaitSignal(WORKSPACE_OUTCOME, poll_s=self._settings.liveness_poll_s)

    def ready_expired(self, ctx: StepContext) -> Outcome:
        """No callback in time: ask the node once. Its answer counts like the callback."""
        signal = ctx.take(WORKSPACE_OUTCOME)
        if signal is not None:
            return self._answered(ctx, signal.payload)
        try:
            state = self._tools.agent(self._living_node(ctx), ctx.now).get_workspace(ctx.results["workspace_id"])
        except TransientError as error:
            if self._verdict_is_due(ctx):
                return Snooze(self._settings.liveness_poll_s)  # nothing is known, so nothing failed
            found = f"can't be asked: {error.message}"
        else:
            if state is not None and state["status"] in ("ready", "failed"):
                answer = {name: state[name] for name in ("status", "base_commit", "error")}
                asked = workspace_asked_effect(ctx.run, ctx.results["workspace_id"], answer, now=ctx.now)
                return self._answered(ctx, answer, asked)
            found = "does not know the workspace" if state is None else f"says that it is {state['status']}"
        raise PermanentError(
            f"no ready callback within {ctx.now - ctx.run.step_entered_at:.0f} s; the node {found}",
            code="step_timeout",
            detail={"awaited": WORKSPACE_OUTCOME, "since": ctx.run.step_entered_at, "until": ctx.run.deadline_at},
        )

    def _answered(self, ctx: StepContext, payload: Mapping[str, Any], *effects: Effect) -> Outcome:
        if payload["status"] == "failed":
            error = payload.get("error") or {}
            raise PermanentError(
                error.get("message", "the node gave no reason"), code="workspace_failed",
                advice=_CHECK_CLONE if error.get("phase") == "clone" else None,
                detail={"phase": error.get("phase"), "cause": error.get("code")},
            )  # fmt: skip
        session_id = session_id_of(ctx.run.id)
        # The session's row is the intent to start it, and the place where its log goes: written before it starts.
        start = start_session_effect(
            session_id=session_id, workspace_id=ctx.results["workspace_id"], task_id=ctx.run.subject_id,
            run=ctx.run, now=ctx.now,
        )  # fmt: skip
        return Advance(
            ctx.next_step, effects=(*effects, start),
            results={"session_id": session_id, "base_commit": payload.get("base_commit")},
        )  # fmt: skip


def output_branch(task_id: str, run_number: int) -> str:
    """Where a run's work goes: a branch of its own, so that a fenced run can't overwrite the next one's."""
    return f"taskflow/{task_id}-{run_number}"
