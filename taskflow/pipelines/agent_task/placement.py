"""Getting a node: choose, wait for room, wait for one to come, take a slot."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from taskflow.db.nodes import candidates, count_waiting, create_node_effect, reserve_workspace_effect
from taskflow.db.status import NODE_COMING, NODE_USABLE
from taskflow.db.tasks import set_fields_effect, transition_effect
from taskflow.engine.outcomes import Advance, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError
from taskflow.ids import TaskId, new_node_id, new_run_id, workspace_id_of
from taskflow.nodes.machine import new_node_run
from taskflow.nodes.selector import Candidate, Choice, Wish, select
from taskflow.pipelines.agent_task.shared import TaskSteps
from taskflow.vault import hash_token

_PROVIDER = "local"
#: Looks of all who wait together. A thousand that looked every quarter of a minute were most of what the workers did.
_LOOKS_PER_S = 4.0


class Placement(TaskSteps):
    """node_selection, waiting_for_capacity, node_provisioning, node_agent_ready, workspace_creation."""

    def select_node(self, ctx: StepContext) -> Outcome:
        """Choose a node; the choice and the rejected candidates are stored with the task."""
        task = self._task(ctx)
        choice = self._choose(ctx, task)
        if choice.action == "impossible":
            raise PermanentError(choice.reason, code="node_unusable", advice="name another node, or allow a fallback")
        if choice.action == "wait":
            return Advance(
                "waiting_for_capacity", effects=(self._place(ctx, task, None, choice),), reason=choice.reason
            )
        if choice.action == "provision":
            return self._provision(ctx, task, choice)
        step = "workspace_creation" if choice.action == "use" else "node_provisioning"
        return Advance(
            step, results={"node_id": choice.node_id}, effects=(self._place(ctx, task, choice.node_id, choice),),
            reason=choice.reason,
        )  # fmt: skip

    def wait_for_capacity(self, ctx: StepContext) -> Outcome:
        """Look whenever a slot is released, and now and then in any case: the more wait, the more rarely each."""
        choice = self._choose(ctx, self._task(ctx))
        if choice.action == "wait":
            with self._tools.database.read() as tx:
                waiting = count_waiting(tx, ctx.run.owner_id)
            return Snooze(max(self._settings.capacity_poll_s, waiting / _LOOKS_PER_S))
        return Advance("node_selection", reason=choice.reason)

    def wait_for_node(self, ctx: StepContext) -> Outcome:
        """Both waits for a node that is coming: its row says how far it is, its runner rings when that changes."""
        node = self._node(ctx)
        if node is None or node.error is not None:
            cause = (node.error or {}) if node is not None else {}
            raise PermanentError(
                f"the node could not be made ready: {cause.get('message', 'its row is gone')}",
                code="node_failed", detail={"node_error": dict(cause)},
            )  # fmt: skip
        if node.status in NODE_USABLE:
            return Advance("workspace_creation")
        if node.status not in NODE_COMING:
            return Advance("node_selection", reason=f"node {node.id} is {node.status}")
        if ctx.run.step == "node_provisioning" and node.status == "awaiting_agent":
            return Advance("node_agent_ready")
        return Snooze(self._settings.provision_poll_s)

    def create_workspace(self, ctx: StepContext) -> Outcome:
        """Take the slot: the workspace's row, its token and the status are one transaction, or another node is chosen."""
        task = self._task(ctx)
        workspace_id = workspace_id_of(ctx.run.id)
        token = self._tools.vault.derive_token("workspace", workspace_id)
        return Advance(
            ctx.next_step,
            results={"workspace_id": workspace_id},
            effects=(
                reserve_workspace_effect(
                    workspace_id=workspace_id, task_id=TaskId(task.id), run=ctx.run,
                    node_id=ctx.results["node_id"], callback_token_hash=hash_token(token), now=ctx.now,
                ),
                transition_effect(task.id, "delegated", run_id=ctx.run.id, now=ctx.now),
            ),
            otherwise=Advance("node_selection", reason="the place was taken meanwhile"),
        )  # fmt: skip

    # --- shared

    def _choose(self, ctx: StepContext, task: Row[Any]) -> Choice:
        with self._tools.database.read() as tx:
            nodes = candidates(tx, ctx.run.owner_id)
        local = sum(1 for node in nodes if node.provider == _PROVIDER)
        return select(
            Wish(task.requested_node_id, task.allow_node_fallback),
            [_candidate(node, ctx.now) for node in nodes],
            may_provision=local < self._settings.local_nodes_max,
            heartbeat_stale_s=self._settings.heartbeat_stale_s,
        )

    def _provision(self, ctx: StepContext, task: Row[Any], choice: Choice) -> Outcome:
        node_id = new_node_id()
        token = self._tools.vault.derive_token("node", node_id)
        create = create_node_effect(
            node_id=node_id, run=new_node_run(new_run_id(), node_id, ctx.run.owner_id, ctx.now), label=node_id,
            provider=_PROVIDER, slots=self._settings.node_slots, nodes_max=self._settings.local_nodes_max,
            callback_token_hash=hash_token(token), now=ctx.now,
        )  # fmt: skip
        return Advance(
            "node_provisioning", results={"node_id": node_id},
            effects=(create, self._place(ctx, task, node_id, choice)),
            otherwise=Advance("waiting_for_capacity", reason="somebody else made the last allowed node"),
            reason=choice.reason,
        )  # fmt: skip

    def _place(self, ctx: StepContext, task: Row[Any], node_id: str | None, choice: Choice) -> Any:
        return set_fields_effect(task.id, run_id=ctx.run.id, now=ctx.now, node_id=node_id, placement=choice.as_dict())


def _candidate(node: Row[Any], now: float) -> Candidate:
    beat = node.heartbeat or {}
    load, cores = beat.get("load1"), beat.get("cores")
    return Candidate(
        node_id=node.id, status=node.status, slots=node.slots, live_workspaces=node.live_workspaces,
        heartbeat_age_s=None if node.last_heartbeat_at is None else now - node.last_heartbeat_at,
        load=None if load is None or not cores else load / cores,
    )  # fmt: skip
