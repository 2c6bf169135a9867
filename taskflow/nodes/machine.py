"""The node machine: a node is a run on the same engine, with its own alarms.

::

    order_server -> create_server -> await_agent -> active <-> warm -> drain -> destroy_server

``drain`` and ``destroy_server`` are closing: a cancel of the node's run means "drain it", every failure ends there too.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from sqlalchemy import Row

from taskflow.db.nodes import WORKSPACE_CHANGED, condemn_effect, get_node, node_effect, reach_effect
from taskflow.db.providers import accounts, block_effect, rest_effect, rest_offer_effect, sells_again_effect
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Effect, Outcome, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext
from taskflow.engine.store import RunRow
from taskflow.errors import PermanentError, StepError, TransientError
from taskflow.ids import NodeId, OwnerId, RunId
from taskflow.nodes.admission import allocate_effect
from taskflow.nodes.boot import agent_late
from taskflow.nodes.context import StepTools
from taskflow.nodes.evidence import evidence_effects
from taskflow.nodes.liveness import Verdict, is_lost, lost_error
from taskflow.nodes.providers.base import (
    AccessRefused,
    HostUnreachable,
    NoCapacity,
    NodeOrder,
    Provider,
    QuotaReached,
)
from taskflow.nodes.selector import Wish
from taskflow.nodes.user_data import ca_certificates, user_data

NODE_PIPELINE = "node"
#: The code of a node's error when somebody lets it be destroyed at once, and of the failure of the tasks on it.
NODE_DESTROYED = "node_destroyed"
_VERSION = 1
#: When it is looked again whether a server is gone: after half of the time that it takes so far, between these.
_GONE_POLL_S, _GONE_POLL_MAX_S = 0.5, 15.0
#: When a deletion that shows no effect is asked for again: the request, or what came of it, may be lost.
_DELETE_AGAIN_S = 60.0
#: A heartbeat that is due in a moment is not looked for sooner than this.
_LOOK_S = 1.0


def new_node_run(run_id: RunId, node_id: NodeId, owner_id: OwnerId | str, now: float, *, kept: bool = False) -> RunRow:
    """The run of a new node, not yet written. ``kept``: it stays idle without an end."""
    return RunRow(
        id=run_id, pipeline=NODE_PIPELINE, version=_VERSION, subject_kind="node", subject_id=node_id, number=1,
        owner_id=owner_id, step="order_server", rev=0, step_entered_at=now, created_at=now,
        results={"kept": True} if kept else {},
    )  # fmt: skip


def again(run: RunRow, run_id: RunId, now: float) -> RunRow:
    """A further run for a node whose last one gave it up: it only destroys the server."""
    return replace(
        run, id=run_id, number=run.number + 1, step="destroy_server", rev=0, step_entered_at=now, created_at=now,
        deadline_at=None,
        awaiting=None, wake_at=None, results={}, error=None, cancel_requested_at=None, cancel_reason=None,
        finished_at=None,
    )  # fmt: skip


class SoldOut(PermanentError):
    """The provider has no room for any of its offers that would do."""

    code = NoCapacity.code


class NodeMachine:
    """The steps. Each reads the node's row, asks the provider or nobody, and decides."""

    def __init__(self, tools: StepTools) -> None:
        self._tools = tools
        #: By node, the intent that this process wrote and has not used yet. Lost with the process, and that is its use.
        self._intents: dict[str, str] = {}
        #: By node, when this process asked for its server's deletion. Another process asks by itself.
        self._deleting: dict[str, float] = {}

    def pipeline(self) -> Pipeline:
        """The step table."""
        settings = self._tools.settings
        return Pipeline(
            name=NODE_PIPELINE,
            version=_VERSION,
            steps=(
                Step("order_server", self.order_server),
                Step(
                    "create_server", self.create_server, guarded=True,
                    limit_s=settings.provision_timeout_s, max_attempts=0,
                ),
                Step(
                    "await_agent", self.await_agent, limit_s=settings.agent_ready_timeout_s, expired=self.agent_late
                ),
                Step("active", self.active),
                Step("warm", self.warm, limit_s=self._warm_limit, expired=self.warm_expired),
                Step("drain", self.drain, max_attempts=0),
                Step("destroy_server", self.destroy_server, max_attempts=0),
            ),
            closing=frozenset({"drain", "destroy_server"}),
            on_cancel=self.on_cancel,
            on_failure=self.on_failure,
        )  # fmt: skip

    # --- coming up

    def order_server(self, ctx: StepContext) -> Outcome:
        """The node's row and its label are persisted by now; say what is about to be bought."""
        return self._intend(ctx)

    def create_server(self, ctx: StepContext) -> Outcome:
        """Look the label up, buy only what is not there: a crash after the call finds the server here.

        An intent is used for one call. Whoever finds one that it did not write itself can't know whether it was used: then
        the label is looked up late enough that even a slow call and a listing that lags would show the server. So no call
        begins in the second half of that time, and none when the run was lost since the look-up.
        """
        node = self._node(ctx)
        limit_s = self._tools.settings.provision_timeout_s
        if ctx.now > node.created_at + limit_s:  # over all offers and intents; the step's own limit is for one
            raise PermanentError(f"no server was bought within {limit_s:.0f} s", code="step_timeout")
        fresh = self._intents.pop(node.id, None) == node.intent
        provider = self._provider(node)
        server = provider.find_by_label(node.label)
        if server is None and not (fresh or provider.creates_once):
            wait_s = node.intent_at + self._tools.settings.provider_settle_s - ctx.now
            return Snooze(wait_s) if wait_s > 0 else self._intend(ctx, ctx.ensure_ours(uncancelled=True))
        if server is None:
            order = self._order(node)
            now = ctx.ensure_ours(uncancelled=True)
            late_s = now - node.intent_at
            if late_s > self._tools.settings.provider_settle_s / 2 and not provider.creates_once:
                return replace(self._intend(ctx, now), reason=f"it took {late_s:.0f} s to look the label up: once more")
            try:
                server = provider.create(order)
            except NoCapacity as error:
                return self._elsewhere(ctx, node, error)
            except HostUnreachable as error:
                if not fresh:  # an earlier call may have made something there, and this label lives only once
                    raise
                self._intents[node.id] = node.intent  # nothing got there: it is unused
                return self._elsewhere(ctx, node, error)
        if server.state == "destroyed":
            raise PermanentError(f"server {server.server_id} was destroyed meanwhile", code="server_gone")
        bought = self._to(ctx, "awaiting_agent", server_id=server.server_id, bought_at=ctx.now)
        return Advance(ctx.next_step, effects=(bought,))

    def _intend(self, ctx: StepContext, at: float | None = None, **fields: Any) -> Advance:
        """The intent to buy, written before the call that it is for. ``fields``: what is ordered now. ``at``: the time,
        where it is later than the step's: a look-up that took long must not count against the one that comes."""
        intent = secrets.token_hex(8)
        self._intents[ctx.run.subject_id] = intent
        fields |= {"intent": intent, "intent_at": ctx.now if at is None else at}
        return Advance("create_server", effects=(self._to(ctx, "creating", **fields),))

    def _elsewhere(self, ctx: StepContext, node: Row[Any], error: NoCapacity | HostUnreachable) -> Outcome:
        """The next offer that meets the wish, and a rest for this one. When there is none, a machine that can't be reached
        is tried again, and what is sold out raises ``SoldOut``."""
        rest_s = self._tools.settings.offer_rest_s if error.retry_after_s is None else error.retry_after_s
        spec = self._tools.catalogue.spec(node.provider)
        sold_out = f"{node.size}@{node.location}"
        with self._tools.database.read() as tx:
            account = accounts(tx).get(node.provider)
        resting = {} if account is None else account.offers_rest
        wish = Wish.stored(node.wish or {})
        others = [] if spec is None else [
            offer for offer in spec.offers
            if offer.key != sold_out and resting.get(offer.key, 0.0) <= ctx.now and wish.fits(offer) is None
        ]  # fmt: skip
        if not others and isinstance(error, HostUnreachable):
            raise error
        if not others:
            raise SoldOut(f"{node.provider} has nothing that fits: {error.message}", detail={"offer": sold_out})
        offer = min(others, key=lambda one: wish.is_second_choice(one.location))
        moved = self._intend(
            ctx, size=offer.size, location=offer.location, vcpus=offer.vcpus, memory_mb=offer.memory_mb,
            slots=offer.slots, price_per_hour=offer.price_per_hour,
        )  # fmt: skip
        rest = rest_offer_effect(node.provider, sold_out, until=ctx.now + rest_s, now=ctx.now)
        why = "can't be reached" if isinstance(error, HostUnreachable) else "is sold out"
        return replace(moved, effects=(*moved.effects, rest), reason=f"{sold_out} {why}, {offer.key} is tried")

    def await_agent(self, ctx: StepContext) -> Outcome:
        """Until the agent says that it is ready; each heartbeat repeats it. Not for a server that is gone already."""
        node = self._node(ctx)
        if self._is_ready(ctx, node):
            return Advance(ctx.next_step, effects=(self._to(ctx, "active"), self._allocate(ctx)))
        if self._went_away(node, ctx.now):
            raise PermanentError(f"server {node.server_id} went away before its agent came up", code="server_gone")
        return AwaitSignal("agent_ready", poll_s=self._tools.settings.heartbeat_interval_s)

    def agent_late(self, ctx: StepContext) -> Outcome:
        """No agent in time: say how far the server's boot was seen, unless the report came at the last moment."""
        node = self._node(ctx)
        if self._is_ready(ctx, node):
            return Advance(ctx.next_step, effects=(self._to(ctx, "active"), self._allocate(ctx)))
        raise agent_late(node, self._tools.catalogue.spec(node.provider), ctx)

    # --- in use and idle

    def active(self, ctx: StepContext) -> Outcome:
        """While workspaces live on it; warm as soon as none does, unless it retires."""
        node = self._node(ctx)
        self._take_changes(ctx)
        verdict = self._tools.verdict(node, ctx.now)
        if verdict.dead:
            return self._lost(ctx, node, verdict)
        retires = self._tools.retires(node, ctx.now) if node.live_workspaces == 0 else None
        if retires is not None:
            return self._retire(ctx, retires, otherwise=self._look_again(ctx, node))
        if node.live_workspaces == 0:
            warm_until = None if node.kept else ctx.now + self._tools.settings.node_warm_s
            return Advance(
                "warm",
                effects=(self._to(ctx, "warm", idle=True, warm_until=warm_until),),
                otherwise=self._look_again(ctx, node),
            )
        return self._look_again(ctx, node)

    def warm(self, ctx: StepContext) -> Outcome:
        """Idle and claimable until ``warm_until``; a claim turned the row active in its own transaction."""
        node = self._node(ctx)
        self._take_changes(ctx)
        if node.live_workspaces > 0 or node.status == "active":
            # Also when it was claimed and given back before this look: its idle time begins anew.
            return Advance("active")
        verdict = self._tools.verdict(node, ctx.now)
        if verdict.dead:
            return self._lost(ctx, node, verdict)
        retires = self._tools.retires(node, ctx.now)
        if retires is not None:
            return self._retire(ctx, retires, otherwise=Advance("active"))
        return self._look_again(ctx, node)

    def _warm_limit(self, run: RunRow) -> float | None:
        return None if run.results.get("kept") else self._tools.settings.node_warm_s

    def warm_expired(self, ctx: StepContext) -> Outcome:
        """Nobody claimed it in time: drain, unless a claim comes first (then it is refused and the node goes on)."""
        if self._node(ctx).status == "active":
            return Advance("active")
        return self._retire(ctx, "warm time is over", otherwise=Advance("active"))

    def _retire(self, ctx: StepContext, reason: str, *, otherwise: Outcome) -> Advance:
        """An idle node goes; ``otherwise`` when somebody claims it at this moment."""
        idle = self._to(ctx, "draining", idle=True, because=reason, warm_until=None)
        return Advance("drain", effects=(idle,), otherwise=otherwise, reason=reason)

    # --- going away

    def drain(self, ctx: StepContext) -> Outcome:
        """Takes no new workspace; waits for the live ones, unless the node died: theirs are lost with it."""
        node = self._node(ctx)
        self._take_changes(ctx)
        if node.live_workspaces == 0 or is_lost(node):
            return Advance(ctx.next_step)
        if _at_once(node):
            return Advance(ctx.next_step, reason=node.error["message"])
        verdict = self._tools.verdict(node, ctx.now)
        return self._lost(ctx, node, verdict) if verdict.dead else self._look_again(ctx, node)

    def _lost(self, ctx: StepContext, node: Row[Any], verdict: Verdict) -> Advance:
        """It goes as a whole, with what may still be on it: nothing of it is asked for any more. Whoever is heard of while
        the verdict is written lives; afterwards nothing takes it back."""
        said = lost_error(node, verdict, ctx.now).as_dict()
        return Advance(
            "destroy_server", error=said, reason=said["message"], otherwise=Snooze(_LOOK_S),
            effects=(
                condemn_effect(node, said, run=ctx.run, now=ctx.now), self._allocate(ctx),
                *evidence_effects(self._tools, node, said, run=ctx.run, now=ctx.now),
            ),
        )  # fmt: skip

    def destroy_server(self, ctx: StepContext) -> Outcome:
        """Until the provider says that it is gone: terminated only after that."""
        node = self._node(ctx)
        provider = self._provider(node)
        if not self._is_gone(provider, node, ctx.now):
            lasts_s = ctx.now - ctx.run.step_entered_at
            return Snooze(min(_GONE_POLL_MAX_S, max(_GONE_POLL_S, lasts_s / 2)))
        if node.intent_at is not None and not provider.told_at_once:
            # Bought a moment ago, or perhaps: what looks gone may only not be listed yet.
            wait_s = node.intent_at + self._tools.settings.provider_settle_s - ctx.now
            if wait_s > 0:
                return Snooze(wait_s)
        gone = self._to(ctx, "destroyed", destroyed_at=ctx.now, address=None, warm_until=None)
        spec = self._tools.catalogue.spec(node.provider)
        # Where all owners share a limit, it may be another one's turn to buy.
        others = (sells_again_effect(node.provider, ctx.now),) if spec is not None and spec.nodes_max else ()
        return Done(effects=(gone, *others, self._allocate(ctx)))

    def _is_gone(self, provider: Provider, node: Row[Any], now: float) -> bool:
        """Ask for the deletion, once in a while, and whether it happened."""
        asks = now - self._deleting.get(node.id, 0.0) >= _DELETE_AGAIN_S
        if provider.destroy(node.server_id or node.label, ask=asks):
            self._deleting.pop(node.id, None)
            return True
        if asks:
            # Those whose end another process saw are forgotten here.
            recent = {other: at for other, at in self._deleting.items() if now - at < _DELETE_AGAIN_S}
            self._deleting = {**recent, node.id: now}
        return False

    def on_cancel(self, ctx: StepContext) -> Outcome:
        """A cancelled node drains."""
        return Advance("drain", effects=(self._to(ctx, "draining", warm_until=None),), reason=ctx.run.cancel_reason)

    def on_failure(self, ctx: StepContext, error: StepError) -> Outcome:
        """A node that failed is destroyed; one whose destruction is refused is left to a human, in status error."""
        said = error.as_dict()
        self._intents.pop(ctx.run.subject_id, None)
        if ctx.run.step in ("drain", "destroy_server"):
            node = self._node(ctx)
            # Whose tasks have not read yet that they are lost has to find it here all the same.
            lost = (
                {**node.error, "detail": {**node.error.get("detail", {}), "refused": said}} if is_lost(node) else None
            )
            return Done(error=said, effects=(self._to(ctx, "error", error=lost or said), self._allocate(ctx)))
        gone = self._to(ctx, "draining", error=said, warm_until=None)
        # Nobody renews the lease here.
        evidence = evidence_effects(
            self._tools, self._node(ctx), said, run=ctx.run, now=ctx.now, limit_s=self._tools.settings.lease_s / 2
        )
        return Advance("destroy_server", error=said, effects=(gone, *self._consequences(ctx, error), *evidence))

    def _consequences(self, ctx: StepContext, error: StepError) -> tuple[Effect, ...]:
        """What a refusal says about the provider, beyond this node: each has an answer of its own."""
        node, now, settings = self._node(ctx), ctx.now, self._tools.settings
        if error.code == NoCapacity.code:
            offer, until = f"{node.size}@{node.location}", now + settings.offer_rest_s
            return (rest_offer_effect(node.provider, offer, until=until, now=now),)
        if error.code == QuotaReached.code:
            said = error.as_dict()
            return (rest_effect(node.provider, until=now + settings.provider_rest_s, because=said, now=now),)
        if error.code == AccessRefused.code:
            return (block_effect(node.provider, error.as_dict(), now=now),)
        return ()

    # --- shared

    def _allocate(self, ctx: StepContext) -> Effect:
        """There is room on it, or room for another one: to those of its owner who wait."""
        return allocate_effect(self._tools, ctx.run.owner_id, ctx.now)

    def _to(
        self, ctx: StepContext, status: str, *, idle: bool = False, because: str | None = None, **fields: Any
    ) -> Effect:
        return node_effect(
            ctx.run.subject_id, status, run=ctx.run, now=ctx.now, idle=idle, because=because, **fields
        )  # fmt: skip

    def _is_ready(self, ctx: StepContext, node: Row[Any]) -> bool:
        return ctx.take("agent_ready") is not None or node.agent_ready_at is not None

    def _node(self, ctx: StepContext) -> Row[Any]:
        with self._tools.database.read() as tx:
            node = get_node(tx, ctx.run.subject_id)
        if node is None:
            raise PermanentError(f"there is no node {ctx.run.subject_id}", code="node_missing")
        return node

    def _provider(self, node: Row[Any]) -> Provider:
        provider = self._tools.providers.get(node.provider)
        if provider is None:
            # Another release, or a configuration without it: not a reason to give up a machine that costs money.
            raise TransientError(f"provider {node.provider} is not configured here", code="provider_unknown")
        return provider

    def _went_away(self, node: Row[Any], now: float) -> bool:
        """Whether the provider says so. One that can't be asked, or that may not list it yet, says nothing."""
        try:
            server = self._provider(node).get(node.server_id)
        except TransientError:
            return False
        if server is None:
            return bool(now - node.bought_at > self._tools.settings.provider_settle_s)
        return server.state == "destroyed"

    def _order(self, node: Row[Any]) -> NodeOrder:
        vault, spec = self._tools.vault, self._tools.catalogue.spec(node.provider)
        bought = spec is not None and spec.needs_user_data
        return NodeOrder(
            node_id=node.id, label=node.label, agent=self._tools.agent_order(node), size=node.size,
            location=node.location,
            user_data=user_data(
                node_id=node.id, control_plane_url=self._tools.settings.public_url,
                bootstrap_token=vault.derive_token("bootstrap", node.id),
                ca_certificates=ca_certificates(self._tools.settings),
                ready_s=self._tools.settings.agent_ready_timeout_s,
            ) if bought else "",
        )  # fmt: skip

    def _look_again(self, ctx: StepContext, node: Row[Any]) -> AwaitSignal:
        """Until a workspace comes or goes, or the next heartbeat should be there.

        One that is late makes the node unreachable, which is no verdict: it gets no new work, and its agent and its
        provider are asked at once, so that whoever looks reads what is known.
        """
        settings = self._tools.settings
        late_s = settings.heartbeat_interval_s + settings.heartbeat_grace_s
        age_s = ctx.now - (node.last_heartbeat_at or node.created_at)
        effects: tuple[Effect, ...] = ()
        if age_s <= late_s:
            poll_s = late_s - age_s
            if node.unreachable_since is not None:
                effects = (reach_effect(node.id, None, run=ctx.run, now=ctx.now), self._allocate(ctx))
        else:
            poll_s, lost_s = settings.heartbeat_stale_s / 2, self._tools.lost_after_s(node)
            if lost_s is not None and age_s <= lost_s:
                poll_s = min(poll_s, lost_s - age_s + _LOOK_S)
            if node.unreachable_since is None:
                answers, state = self._tools.signs(node, ctx.now)
                effects = (
                    reach_effect(
                        node.id, ctx.now - age_s, run=ctx.run, now=ctx.now, agent_answers=answers, server_state=state
                    ),
                )
        return AwaitSignal(WORKSPACE_CHANGED, poll_s=max(_LOOK_S, poll_s), effects=effects)

    def _take_changes(self, ctx: StepContext) -> None:
        while ctx.take(WORKSPACE_CHANGED) is not None:
            pass


def _at_once(node: Row[Any]) -> bool:
    """Whether somebody lets it be destroyed with what lives on it."""
    return bool((node.error or {}).get("code") == NODE_DESTROYED)
