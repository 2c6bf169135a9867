"""Running the command: start the session, follow it to its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from taskflow.db.tasks import set_fields_effect, transition_effect
from taskflow.db.workspaces import SESSION_OUTCOME, end_session_effect
from taskflow.engine.outcomes import Advance, AwaitSignal, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import InfrastructureError, PermanentError, StepError, TransientError
from taskflow.nodes.context import StepTools
from taskflow.nodes.liveness import CUT_OFF, NODE_LOST, lost_error, unnamed
from taskflow.pipelines.agent_task.shared import LOST_ADVICE, TaskSteps


class Execution(TaskSteps):
    """agent_session, running."""

    def start(self, ctx: StepContext) -> Outcome:
        """Start the command. The session id makes a repeat answer what the first said."""
        task = self._task(ctx)
        started = Advance(
            ctx.next_step, results={"time_limit_s": task.time_limit_s},
            effects=(transition_effect(task.id, "in_progress", run_id=ctx.run.id, now=ctx.now),),
        )  # fmt: skip
        if ctx.is_recorded(SESSION_OUTCOME):
            return started  # and ended, before its node could say so; it counts, also if the node is gone since
        node = self._living_node(ctx)
        self._tools.agent(node, ctx.now).put_session(
            ctx.results["workspace_id"],
            ctx.results["session_id"],
            {
                "fence": ctx.run.rev,
                "command": task.command,
                "env": task.env,
                "secrets": self._secrets(task),
                "time_limit_s": task.time_limit_s,
                "log_limit_bytes": self._settings.log_limit_bytes,
                "commit_message": f"{task.title}\n\ntaskflow task {task.id}, run {ctx.run.number}",
                "push": task.push,
            },
        )
        return started

    def _secrets(self, task: Row[Any]) -> dict[str, str]:
        try:
            return self._tools.vault.decrypt(task.secrets_encrypted)
        except InfrastructureError as error:
            # As a fault of the store it would be tried again, unrecorded, until the step's limit hid the cause.
            raise PermanentError(error.message, code=error.code, advice=error.advice) from error

    def follow(self, ctx: StepContext) -> Outcome:
        """Until the outcome is reported; in between, is there still anybody to report it? That is one verdict for all on a
        node: its runner makes it, and rings them."""
        signal = ctx.take(SESSION_OUTCOME)
        if signal is not None:
            return self._ended(ctx, signal.payload)
        node = self._living_node(ctx)
        if node.status == "error":  # its own runner, whose verdict it is otherwise, has given it up
            verdict = self._tools.verdict(node, ctx.now)
            if verdict.dead:
                said = lost_error(node, verdict, ctx.now)
                raise PermanentError(said.message, code=said.code, advice=LOST_ADVICE, detail=said.detail)
        if self._is_forgotten(ctx, node):
            raise PermanentError(
                "its node reports, and does not know the session any more: what the agent kept of it is gone",
                code="session_lost", advice=LOST_ADVICE,
            )  # fmt: skip
        return AwaitSignal(SESSION_OUTCOME, poll_s=self._settings.liveness_poll_s)

    def _is_forgotten(self, ctx: StepContext, node: Row[Any]) -> bool:
        """By two signs: heartbeats that come and don't name it, and its agent's own word. One that can't be asked says
        nothing."""
        fresh_s = self._settings.heartbeat_interval_s + self._settings.heartbeat_grace_s
        heard_at, session_id = node.last_heartbeat_at, ctx.results["session_id"]
        if heard_at is None or ctx.now - heard_at > fresh_s:
            return False
        if not unnamed(node, session_id, since=ctx.run.step_entered_at):
            return False
        try:
            return self._tools.agent(node, ctx.now).get_session(ctx.results["workspace_id"], session_id) is None
        except StepError:
            return False

    def follow_expired(self, ctx: StepContext) -> Outcome:
        """Past the session's own time limit and no report: ask the node once. While the node is not heard of nothing is
        known, and nothing failed: its report comes with the link, or the verdict about it does."""
        signal = ctx.take(SESSION_OUTCOME)
        if signal is not None:
            return self._ended(ctx, signal.payload)
        try:
            agent = self._tools.agent(self._living_node(ctx), ctx.now)
            state = agent.get_session(ctx.results["workspace_id"], ctx.results["session_id"])
        except TransientError as error:
            if self._verdict_is_due(ctx):
                return Snooze(self._settings.liveness_poll_s)
            raise PermanentError(
                f"the session did not report in time, and its node can't be asked: {error.message}",
                code="session_lost", advice=LOST_ADVICE,
            ) from error  # fmt: skip
        if state is not None and state.get("outcome"):
            sealed = self._task(ctx).secrets_encrypted
            return self._ended(ctx, self._tools.vault.mask_outcome(state["outcome"], sealed))
        raise PermanentError(
            f"the session did not report within {ctx.now - ctx.run.step_entered_at:.0f} s; its node says "
            f"{'nothing of it' if state is None else state['status']}",
            code="session_lost", advice=LOST_ADVICE,
        )  # fmt: skip

    def _ended(self, ctx: StepContext, outcome: Mapping[str, Any]) -> Outcome:
        """The outcome as the task's end. Work that was committed is kept with the task however the command ended."""
        fields = {
            "output_branch": outcome.get("output_branch"), "output_commit": outcome.get("commit"),
            "pushed": outcome.get("pushed"), "changed_files": outcome.get("changed_files"),
            "exit_code": outcome.get("exit_code"),
        }  # fmt: skip
        task_id, run_id = ctx.run.subject_id, ctx.run.id
        ended = end_session_effect(ctx.results["session_id"], outcome, now=ctx.now)
        error = failure_of(outcome)
        if error is None:
            return Advance(
                "cleanup",
                effects=(ended, transition_effect(task_id, "completed", run_id=run_id, now=ctx.now, fields=fields)),
            )
        said, promises = self._after_node_loss(ctx, error.as_dict())
        return Advance(
            "cleanup", error=said, reason=error.message,
            effects=(
                ended,
                set_fields_effect(task_id, run_id=run_id, now=ctx.now, **fields),
                transition_effect(
                    task_id, "failed", run_id=run_id, now=ctx.now, reason=error.message, fields={"error": said},
                    outbox=promises,
                ),
            ),
        )  # fmt: skip


def failure_of(outcome: Mapping[str, Any]) -> PermanentError | None:
    """Why a session's outcome is a failure of the task, None when it is a success."""
    kind, code, error = outcome["outcome"], outcome.get("exit_code"), outcome.get("error") or {}
    if kind == "lost" and error.get("code") == CUT_OFF:
        return PermanentError(
            f"its node ended the session, as it reached nobody: {error.get('message') or 'its dead-man time was over'}",
            code=NODE_LOST, advice=LOST_ADVICE, detail={"by": CUT_OFF},
        )  # fmt: skip
    if kind == "lost":
        return PermanentError(
            error.get("message") or "the session's end was not seen: its machine or supervisor went away",
            code="session_lost", advice=LOST_ADVICE,
        )  # fmt: skip
    if kind == "timed_out":
        return PermanentError(
            "the command was stopped at its time limit",
            code="command_timed_out",
            advice="give it a longer --time-limit",
        )
    if kind == "stopped":
        return PermanentError("the command was stopped", code="session_stopped")
    if code != 0:
        said = error["message"] if error.get("phase") == "start" else f"the command exited with status {code}"
        return PermanentError(said, code="command_failed", detail={"exit_code": code})
    if error.get("phase") == "report":  # the report itself was refused; this is a short one in its place
        return PermanentError(
            error["message"], code=error["code"], detail={"phase": "report"},
            advice="the work is on its branch, if it was pushed; what was reported of it is not complete",
        )  # fmt: skip
    if error:
        return PermanentError(
            error.get("message", "its work could not be saved"), code=f"{error.get('phase') or 'output'}_failed",
            detail={"phase": error.get("phase")},
        )  # fmt: skip
    return None


def running_limit(tools: StepTools) -> Any:
    """How long a run may stay in ``running``: its own time limit and a grace for the report, never past the ceiling."""

    def limit(run: RunRow) -> float:
        limit_s = float(run.results.get("time_limit_s", tools.settings.execution_timeout_s))
        return min(limit_s + tools.settings.session_grace_s, tools.settings.execution_ceiling_s)

    return limit
