"""Delete servers that nobody needs and somebody pays for. Only on exact proof; any doubt leaves them to a human."""

from __future__ import annotations

from typing import Any

import structlog
from sqlalchemy import select

from taskflow.db.models import Node
from taskflow.errors import StepError
from taskflow.nodes.audit import Difference, audit
from taskflow.nodes.context import StepTools
from taskflow.nodes.providers.base import Provider

log = structlog.get_logger(__name__)

#: A mistake in the proof itself must not empty an account in one go.
DELETIONS_MAX = 5


def delete_orphans(tools: StepTools, now: float) -> dict[str, Any]:
    """One look. An orphan is deleted when it is older than ``TASKFLOW_ORPHAN_AGE_S`` and still one when it is read again.

    Raises when a provider could not be asked: the sweep did not succeed then, and its age says so.
    """
    found, failed = audit(tools, now)
    old = [
        one for one in found
        if one.kind == "orphan" and one.age_s is not None and one.age_s >= tools.settings.orphan_age_s
    ]  # fmt: skip
    deleted = [one for one in old[:DELETIONS_MAX] if _delete(tools, tools.providers[one.provider], one)]
    if failed:
        raise StepError(f"not every provider could be asked: {failed}", code="provider_unavailable")
    kinds = {kind: sum(one.kind == kind for one in found) for kind in ("orphan", "missing", "stopped")}
    return {**kinds, "deleted": len(deleted)}


def _delete(tools: StepTools, provider: Provider, orphan: Difference) -> bool:
    """Read both sides again, then delete. Whatever is not exactly as it was is left alone."""
    assert orphan.server_id is not None
    try:
        again = provider.get(orphan.server_id)
        if again is None or (again.server_id, again.label) != (orphan.server_id, orphan.label):
            return False
        with tools.database.read() as tx:
            node = tx.execute(select(Node.__table__).where(Node.label == orphan.label)).first()
        if node is not None and node.destroyed_at is None and node.server_id in (None, orphan.server_id):
            return False
        provider.destroy(orphan.server_id)
    except StepError as error:
        log.warning("orphan_not_deleted", server_id=orphan.server_id, label=orphan.label, error=error.message)
        return False
    log.warning(
        "orphan_deleted", provider=orphan.provider, server_id=orphan.server_id, label=orphan.label, why=orphan.says
    )
    return True
