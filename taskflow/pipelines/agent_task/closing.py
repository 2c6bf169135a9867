"""Ending: cancel, failure, cleanup. The terminal status and the intent to clean up are one transaction."""

from __future__ import annotations

from taskflow.db.tasks import transition_effect
from taskflow.db.workspaces import end_session_effect, get_session, release_workspace_effect, workspace_of_run
from taskflow.engine.outcomes import Advance, Done, Effect, Outcome
from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError, StepError
from taskflow.ids import session_id_of
from taskflow.nodes.admission import allocate_effect
from taskflow.nodes.liveness import is_lost
from taskflow.pipelines.agent_task.shared import TaskSteps


class Closing(TaskSteps):
    """cleanup, and the ways into it."""

    def on_cancel(self, ctx: StepContext) -> Outcome:
        """The cancel that somebody asked for becomes true."""
        return Advance(
            "cleanup",
            effects=(
                transition_effect(
                    ctx.run.subject_id, "cancelled", run_id=ctx.run.id, now=ctx.now, reason=ctx.run.cancel_reason
                ),
                *self._give_up_place(ctx),
            ),
            reason=ctx.run.cancel_reason,
        )

    def on_failure(self, ctx: StepContext, error: StepError) -> Outcome:
        """A step gave up. A failing cleanup never hides the cause: it ends the run and says so on the run alone."""
        if ctx.run.step == "cleanup":
            return Done(error=error.as_dict(), effects=self._release(ctx, error.as_dict()))
        said, promises = self._after_node_loss(ctx, error.as_dict())
        failed = transition_effect(
            ctx.run.subject_id, "failed", run_id=ctx.run.id, now=ctx.now, reason=error.message,
            fields={"error": {**said, "step": ctx.run.step}}, outbox=promises,
        )  # fmt: skip
        return Advance(
            "cleanup",
            error={**said, "step": ctx.run.step},
            effects=(failed, *self._give_up_place(ctx)),
            reason=error.message,
        )

    def cleanup(self, ctx: StepContext) -> Outcome:
        """Stop what runs, delete the workspace on its node, give the slot back. Repeated until it is done.

        The node is told even when the workspace may never have got there: the tombstone refuses a creation that a
        paused worker sends late. A lost node is not asked. It goes as a whole, with its server, and what a paused worker
        still sends there is of a turn that began before the verdict: it is refused when its signature is too old, until
        when nothing of the task begins elsewhere (``service.tasks``), and what it might have made goes with the server.
        """
        with self._tools.database.read() as tx:
            workspace = workspace_of_run(tx, ctx.run.id)
        if workspace is None or workspace.released_at is not None:
            return Done()
        node = self._node(ctx)
        lost = node is None or node.destroyed_at is not None or is_lost(node)
        if node is not None and not lost and node.address is not None:
            self._tools.agent(node, ctx.now).delete_workspace(workspace.id, ctx.run.rev)
        return Done(effects=self._release(ctx, ended="lost" if lost else "stopped"))

    def cleanup_expired(self, ctx: StepContext) -> Outcome:
        """The node could not be reached for the whole time: the run ends, the workspace may still be on the node."""
        raise PermanentError(
            f"cleanup was not possible within {self._settings.cleanup_timeout_s:.0f} s", code="cleanup_failed",
            advice="the node may still hold the workspace; destroy the node: taskflow nodes destroy",
        )  # fmt: skip

    def _give_up_place(self, ctx: StepContext) -> tuple[Effect, ...]:
        """A place that was kept for the task is free at once, for whoever waits behind it."""
        if ctx.results.get("workspace_id") is not None:
            return ()  # it has one already, which its cleanup releases
        return (allocate_effect(self._tools, ctx.run.owner_id, ctx.now),)

    def _release(
        self, ctx: StepContext, error: dict[str, object] | None = None, ended: str = "stopped"
    ) -> tuple[Effect, ...]:
        with self._tools.database.read() as tx:
            workspace = workspace_of_run(tx, ctx.run.id)
            session = get_session(tx, session_id_of(ctx.run.id))
        if workspace is None:
            return ()
        effects: tuple[Effect, ...] = (
            release_workspace_effect(workspace.id, now=ctx.now, status_error=error),
            allocate_effect(self._tools, ctx.run.owner_id, ctx.now),
        )
        if session is not None and session.ended_at is None:
            effects += (end_session_effect(session.id, {"outcome": ended}, now=ctx.now),)
        return effects
