"""Getting a node: choose, wait for room, wait for one to come, take a slot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from taskflow.db.nodes import CAPACITY, create_node_effect
from taskflow.db.status import NODE_COMING, NODE_USABLE
from taskflow.db.tasks import set_fields_effect, transition_effect
from taskflow.db.waiting import count_waiting
from taskflow.db.workspaces import reserve_workspace_effect
from taskflow.engine.outcomes import Advance, AwaitSignal, Effect, Outcome, Snooze
from taskflow.engine.pipeline import StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import PermanentError
from taskflow.ids import TaskId, workspace_id_of
from taskflow.nodes.admission import allocate_effect, situation, wish_of
from taskflow.nodes.boot import agent_late
from taskflow.nodes.limits import place_effect, purchase_guard
from taskflow.nodes.ordering import NODE_DESTROYED, new_node
from taskflow.nodes.providers.base import AccessRefused, NoCapacity, QuotaReached
from taskflow.nodes.purchase import guard
from taskflow.nodes.selector import Choice
from taskflow.pipelines.agent_task.shared import TaskSteps
from taskflow.vault import hash_token

#: Why a node failed without its task having to: another provider may sell one, or this one later; or somebody let it go.
_ELSEWHERE = frozenset({NoCapacity.code, QuotaReached.code, NODE_DESTROYED})
#: Looks of all who wait together. A thousand that looked every quarter of a minute were most of what the workers did.
_LOOKS_PER_S = 4.0
#: Result that holds when the run first waited for capacity.
_WAITS_SINCE = "waits_since"


def waits_since(run: RunRow) -> float | None:
    """When the run first waited for capacity; None: it has not yet."""
    found: float | None = run.results.get(_WAITS_SINCE)
    return found


class Placement(TaskSteps):
    """node_selection, waiting_for_capacity, node_provisioning, node_agent_ready, workspace_creation."""

    def select_node(self, ctx: StepContext) -> Outcome:
        """Choose a node; the choice and the rejected candidates are stored with the task."""
        task = self._task(ctx)
        choice = self._choose(ctx, task)
        if choice.action == "impossible":
            advice = (
                "name another node, or allow a fallback"
                if choice.node_id
                else "ask for less, or for another place: taskflow providers lists what there is"
            )
            raise PermanentError(
                choice.reason, code="node_unusable", advice=advice, detail={"rejected": list(choice.rejected)}
            )
        if choice.action == "wait":
            return self._wait(ctx, task, choice)
        if choice.action == "provision":
            return self._provision(ctx, task, choice)
        step = "workspace_creation" if choice.action == "use" else "node_provisioning"
        return Advance(
            step, results={"node_id": choice.node_id},
            effects=(
                place_effect(ctx.run.owner_id, task.project, task.id, str(choice.node_id), ctx.now),
                self._place(ctx, task, choice.node_id, choice),
            ),
            otherwise=self._wait(ctx, task, replace(choice, reason="a limit was reached meanwhile")),
            reason=choice.reason,
        )  # fmt: skip

    def wait_for_capacity(self, ctx: StepContext) -> Outcome:
        """Until a place is given, or something can be bought. Now and then a look of its own: the more wait, the rarer."""
        given = ctx.take(CAPACITY)
        while (later := ctx.take(CAPACITY)) is not None:
            given = later
        if given is not None and given.payload["node_id"] is not None:
            # Where the place is, coming or there; should it be gone by now, another one is chosen.
            return Advance("node_provisioning", results={"node_id": given.payload["node_id"]}, reason="a place is free")
        task = self._task(ctx)
        choice = self._choose(ctx, task)
        if given is not None and choice.action != "wait":
            return Advance("node_selection", reason=choice.reason)
        effects: tuple[Effect, ...] = ()
        if choice.action != "wait":
            effects = (self._allocate(ctx),)  # there is something: for the first in line, who may be another
        elif task.placement != choice.as_dict():
            effects = (self._place(ctx, task, None, choice),)  # who asks why it waits reads what holds now
        with self._tools.database.read() as tx:
            waiting = count_waiting(tx, ctx.run.owner_id)
        return AwaitSignal(
            CAPACITY, poll_s=max(self._settings.capacity_poll_s, waiting / _LOOKS_PER_S), effects=effects
        )

    def wait_expired(self, ctx: StepContext) -> Outcome:
        """It waited as long as anybody may, all its waits together."""
        if ctx.is_recorded(CAPACITY):
            return self.wait_for_capacity(ctx)  # a place was given in the last moment
        since = waits_since(ctx.run) or ctx.run.step_entered_at
        placement = self._task(ctx).placement or {}
        raise PermanentError(
            f"no place on a node within {ctx.now - since:.0f} s: {placement.get('reason', 'nothing was free')}",
            code="step_timeout", advice="taskflow providers and taskflow usage say what is left",
            detail={
                "step": ctx.run.step, "awaited": ctx.run.awaiting, "since": since, "until": ctx.run.deadline_at,
                "rejected": placement.get("rejected", []),
            },
        )  # fmt: skip

    def wait_for_node(self, ctx: StepContext) -> Outcome:
        """Both waits for a node that is coming: its row says how far it is, its runner rings when that changes."""
        node = self._node(ctx)
        if node is None or node.error is not None:
            cause = (node.error or {}) if node is not None else {}
            if cause.get("code") in _ELSEWHERE:
                return Advance("node_selection", reason=cause.get("message"))
            if cause.get("code") == AccessRefused.code:
                raise PermanentError(
                    f"no server can be bought: {cause['message']}", code=AccessRefused.code,
                    advice="whoever runs this installation has to mend the provider's credential",
                )  # fmt: skip
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

    def agent_late(self, ctx: StepContext) -> Outcome:
        """The wait for the agent is over: what the node's row says by now counts; else how far its boot was seen."""
        outcome = self.wait_for_node(ctx)
        node = self._node(ctx)
        if node is None or not isinstance(outcome, Snooze):
            return outcome
        raise agent_late(node, self._tools.catalogue.spec(node.provider), ctx)

    def create_workspace(self, ctx: StepContext) -> Outcome:
        """Take the slot: the workspace's row, its token and the status are one transaction, or another node is chosen."""
        task = self._task(ctx)
        workspace_id = workspace_id_of(ctx.run.id)
        token = self._tools.vault.derive_token("workspace", workspace_id)
        wish = wish_of(task)
        return Advance(
            ctx.next_step,
            results={"workspace_id": workspace_id},
            effects=(
                reserve_workspace_effect(
                    workspace_id=workspace_id, task_id=TaskId(task.id), run=ctx.run,
                    node_id=ctx.results["node_id"], callback_token_hash=hash_token(token), now=ctx.now,
                    callback_token_expires_at=ctx.now + self._settings.callback_token_s,
                    vcpus=wish.vcpus, memory_mb=wish.memory_mb,
                ),
                transition_effect(task.id, "delegated", run_id=ctx.run.id, now=ctx.now),
            ),
            otherwise=Advance("node_selection", reason="the place was taken meanwhile"),
        )  # fmt: skip

    # --- shared

    def _choose(self, ctx: StepContext, task: Row[Any]) -> Choice:
        with self._tools.database.read() as tx:
            found = situation(tx, self._tools, ctx.run.owner_id, ctx.now, but=task.id)
        return found.choose(wish_of(task), own_node_id=task.node_id)

    def _wait(self, ctx: StepContext, task: Row[Any], choice: Choice) -> Advance:
        """Wait for capacity. What is freed in between is seen by one of both: this effect, or that of the release.

        A run that comes back here goes on with the wait that it began: whoever is sent away again and again has an end too.
        """
        since = waits_since(ctx.run)
        return Advance(
            "waiting_for_capacity", reason=choice.reason, results={_WAITS_SINCE: ctx.now if since is None else since},
            effects=(self._place(ctx, task, None, choice), self._allocate(ctx)),
        )  # fmt: skip

    def _allocate(self, ctx: StepContext) -> Effect:
        return allocate_effect(self._tools, ctx.run.owner_id, ctx.now)

    def _provision(self, ctx: StepContext, task: Row[Any], choice: Choice) -> Outcome:
        offer = choice.offer
        spec = self._tools.catalogue.spec(offer.provider) if offer is not None else None
        if offer is None or spec is None:
            raise PermanentError(f"what was chosen is not in the catalogue: {choice.reason}", code="provider_unknown")
        owner_id, now = ctx.run.owner_id, ctx.now
        node = new_node(self._tools, spec, offer, owner_id, wish_of(task), now)
        limits = purchase_guard(owner_id, offer.price_per_hour, now, project=task.project, task_id=task.id)
        return Advance(
            "node_provisioning", results={"node_id": node.id},
            effects=(
                create_node_effect(node, guard(spec, owner_id, limits), now=now),
                self._place(ctx, task, node.id, choice),
                self._allocate(ctx),  # it has room for more than one
            ),
            otherwise=self._wait(ctx, task, replace(choice, reason="somebody else made the last allowed node")),
            reason=choice.reason,
        )  # fmt: skip

    def _place(self, ctx: StepContext, task: Row[Any], node_id: str | None, choice: Choice) -> Any:
        return set_fields_effect(task.id, run_id=ctx.run.id, now=ctx.now, node_id=node_id, placement=choice.as_dict())
