"""Delete what nobody needs and somebody pays for: servers, addresses, volumes. Only on exact proof; any doubt leaves them.

The proof: it carries this installation's mark, no node that stands needs it, it is old enough, and all of that is still so
when both sides are read again right before the deletion. A provider whose listing fails anywhere is left alone as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy import select

from taskflow.db.models import Node
from taskflow.errors import StepError
from taskflow.nodes.audit import Difference, audit
from taskflow.nodes.context import StepTools
from taskflow.nodes.providers.base import Leftover
from taskflow.sweeps.items import Items

log = structlog.get_logger(__name__)

#: A mistake in the proof itself must not empty an account in one go.
DELETIONS_MAX = 5
_LEFTOVERS = ("address", "volume")
_KINDS = ("orphan", "missing", "stopped", *_LEFTOVERS)


def delete_orphans(tools: StepTools, items: Items) -> dict[str, Any]:
    """One look. A server is deleted when it is older than ``TASKFLOW_ORPHAN_AGE_S``; an address or volume when it was seen
    without a server for as long besides: somebody may just be moving it. A provider that can't be asked is a failed item.
    """
    now, state = items.now(), items.memory.state
    found, unasked = audit(tools, now)
    named = {_name(one): one for one in found}
    # First seen; one whose provider can't be asked now keeps its time.
    seen = {
        name: at for name, at in state.get("seen", {}).items()
        if name in named or name.partition("/")[0] in unasked
    } | {name: state.get("seen", {}).get(name, now) for name, one in named.items() if one.kind in _LEFTOVERS}  # fmt: skip
    asked = {name: at for name, at in state.get("asked", {}).items() if name in named}
    state.update(seen=seen, asked=asked)
    old_s = tools.settings.orphan_age_s
    old = {
        name: one for name, one in named.items()
        if (one.kind == "orphan" and one.age_s is not None and one.age_s >= old_s)
        or (one.kind in _LEFTOVERS and now - seen[name] >= old_s and (one.age_s is None or one.age_s >= old_s))
    }  # fmt: skip
    chosen: list[tuple[str, Callable[[], bool]]] = [
        (name, partial(_delete, tools, one, name, asked, now)) for name, one in items.choose(old, DELETIONS_MAX)
    ]
    asks = {spec.name for spec in tools.catalogue.providers if spec.remote} | set(unasked)
    providers = [(f"provider {provider}", partial(_must_be_asked, provider, unasked)) for provider in sorted(asks)]
    every: list[tuple[str, Callable[[], bool]]] = [*providers, *chosen]
    tally = items.each(every, lambda treat: treat())
    return {**{kind: sum(one.kind == kind for one in found) for kind in _KINDS}, **tally}


def _name(one: Difference) -> str:
    return f"{one.provider}/{one.server_id}"[:200]


def _must_be_asked(provider: str, unasked: dict[str, str]) -> bool:
    if provider in unasked:
        raise StepError(f"{provider} could not be asked: {unasked[provider]}", code="provider_unavailable")
    return False


def _delete(tools: StepTools, one: Difference, name: str, asked: dict[str, float], now: float) -> bool:
    """Read both sides again, then delete. Whatever is not exactly as it was is left alone. Raises when it can't be done,
    or was asked for at an earlier run and is still there."""
    assert one.server_id is not None
    if not one.mark:
        return False
    if not (_destroy(tools, one) if one.kind == "orphan" else _release(tools, one)):
        return False
    log.warning("orphan_deleted", kind=one.kind, provider=one.provider, id=one.server_id, label=one.label, why=one.says)
    before = asked.setdefault(name, now)
    if before < now:
        raise StepError(
            f"{one.kind} {one.server_id} of {one.provider} is there {now - before:.0f} s after its deletion was accepted",
            code="orphan_remains", advice="delete it at the provider; what it costs: taskflow nodes audit",
        )  # fmt: skip
    return True


def _is_needed(tools: StepTools, one: Difference) -> bool:
    with tools.database.read() as tx:
        node = tx.execute(select(Node.__table__).where(Node.label == one.label)).first()
    if node is None or node.destroyed_at is not None:
        return False
    return one.kind in _LEFTOVERS or node.server_id in (None, one.server_id)


def _destroy(tools: StepTools, orphan: Difference) -> bool:
    provider, server_id = tools.providers[orphan.provider], str(orphan.server_id)
    again = provider.get(server_id)
    if again is None or (again.server_id, again.label, again.mark) != (server_id, orphan.label, orphan.mark):
        return False
    # The answer of the provider may have taken long: a node may need it by now.
    if _is_needed(tools, orphan):
        return False
    provider.destroy(server_id)
    return True


def _release(tools: StepTools, one: Difference) -> bool:
    if _is_needed(tools, one):
        return False
    found = Leftover(one.kind, str(one.server_id), one.label, one.mark)
    return tools.providers[one.provider].release(found)
