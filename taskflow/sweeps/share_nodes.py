"""Let nobody hold an account for ever: where a provider's limit for all owners is reached, a node changes hands."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection, select

from taskflow.db.models import Node
from taskflow.db.nodes import live_workspaces_of, node_event
from taskflow.db.runs import request_cancel
from taskflow.engine.alarms import Ringer
from taskflow.ids import RunId
from taskflow.nodes.catalogue import Catalogue, ProviderSpec
from taskflow.nodes.limits import claims
from taskflow.nodes.sharing import Held, to_hand_over
from taskflow.sweeps.items import Items


def share_nodes(items: Items, ringer: Ringer, catalogue: Catalogue, *, ageing_s: float) -> dict[str, Any]:
    """One look at every provider that has a limit for all owners. The drain that it asks for ends the node's own work."""

    def treat(spec: ProviderSpec) -> bool:
        run_id = items.database.write(partial(_hand_over, spec=spec, now=items.now(), ageing_s=ageing_s))
        ringer.ring([] if run_id is None else [run_id])
        return run_id is not None

    limited = {spec.name: spec for spec in catalogue.providers if spec.nodes_max}
    return items.each(items.choose(limited, items.limit), treat)


def _hand_over(tx: Connection, *, spec: ProviderSpec, now: float, ageing_s: float) -> RunId | None:
    rows = tx.execute(
        select(Node.id, Node.run_id, Node.owner_id, Node.status, Node.kept, live_workspaces_of().label("live")).where(
            Node.provider == spec.name, Node.destroyed_at.is_(None)
        )
    ).all()
    if len(rows) < spec.nodes_max:
        return None
    # One in status error may still be paid for, and so counts against the limit; it is on its way out already.
    held = [
        Held(row.id, row.run_id, row.owner_id, row.live, row.status == "draining", row.kept)
        for row in rows if row.status != "error"
    ]  # fmt: skip
    chosen = to_hand_over(held, claims(tx, spec.name, now, ageing_s=ageing_s))
    if chosen is None:
        return None
    said = "another owner waits, and has fewer nodes"
    if not request_cancel(tx, chosen.run_id, actor="share_nodes", reason=said, now=now):
        return None
    node_event(tx, chosen.owner_id, chosen.node_id, chosen.run_id, "handed_over", now, reason=said)
    return RunId(chosen.run_id)
