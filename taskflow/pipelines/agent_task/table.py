"""The step table of the agent task. Reading it is reading the product."""

from __future__ import annotations

from taskflow.engine.outcomes import Outcome
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.errors import PermanentError
from taskflow.nodes.context import StepTools
from taskflow.pipelines.agent_task.closing import Closing
from taskflow.pipelines.agent_task.placement import Placement, waits_since
from taskflow.pipelines.agent_task.session import Execution, running_limit
from taskflow.pipelines.agent_task.workspace import Preparation

AGENT_TASK = "agent_task"
VERSION = 1


def agent_task_pipeline(tools: StepTools) -> Pipeline:
    """The table, wired to ``tools``."""
    s = tools.settings
    placement, preparation, execution, closing = Placement(tools), Preparation(tools), Execution(tools), Closing(tools)
    call_s = s.agent_request_timeout_s + 15.0
    return Pipeline(
        name=AGENT_TASK,
        version=VERSION,
        steps=(
            Step("node_selection", placement.select_node),
            Step(
                "waiting_for_capacity", placement.wait_for_capacity, limit_s=s.admission_wait_s, since=waits_since,
                expired=placement.wait_expired,
            ),
            # Entering it is what orders a node.
            Step("node_provisioning", placement.wait_for_node, limit_s=s.provision_timeout_s, guarded=True),
            Step(
                "node_agent_ready", placement.wait_for_node, limit_s=s.agent_ready_timeout_s,
                expired=placement.agent_late,
            ),
            Step("workspace_creation", placement.create_workspace),
            # A repeat of these two is harmless by id, so they go on until their limit.
            Step(
                "workspace_dispatch", preparation.dispatch, timeout_s=call_s, limit_s=s.dispatch_timeout_s,
                guarded=True, max_attempts=0,
            ),
            Step(
                "workspace_ready", preparation.await_ready, timeout_s=call_s, limit_s=s.workspace_ready_timeout_s,
                expired=preparation.ready_expired,
            ),
            Step("attachment_transfer", _not_yet, skip=True),
            Step(
                "agent_session", execution.start, timeout_s=call_s, limit_s=s.dispatch_timeout_s,
                guarded=True, max_attempts=0,
            ),
            Step(
                "running", execution.follow, timeout_s=call_s, limit_s=running_limit(tools),
                expired=execution.follow_expired,
            ),
            Step("awaiting_followup", _not_yet, skip=True),
            Step(
                "cleanup", closing.cleanup, timeout_s=call_s, limit_s=s.cleanup_timeout_s,
                expired=closing.cleanup_expired, max_attempts=0,
            ),
        ),
        closing=frozenset({"cleanup"}),
        on_cancel=closing.on_cancel,
        on_failure=closing.on_failure,
    )  # fmt: skip


def _not_yet(ctx: StepContext) -> Outcome:
    """A step whose place is kept; the table skips it, so nothing can get here but a wrong table."""
    raise PermanentError(f"{ctx.run.step} is not part of this release", code="step_skipped")
