"""Is it dead? A verdict needs two independent signs; unknown is not dead."""

from __future__ import annotations

from enum import Enum


class Liveness(Enum):
    """The three verdicts."""

    LIVE = "live"
    INCONCLUSIVE = "inconclusive"
    DEAD = "dead"


def node_liveness(
    *, heartbeat_age_s: float | None, stale_s: float, agent_answers: bool | None, server_state: str | None
) -> Liveness:
    """The verdict about a node.

    Signs of death: no heartbeat for ``stale_s``; its agent does not answer (None: not asked); its provider says that the
    server is stopped, destroyed or unknown (None). A fresh heartbeat or an answer is life.
    """
    if agent_answers or (heartbeat_age_s is not None and heartbeat_age_s <= stale_s):
        return Liveness.LIVE
    gone = server_state not in ("starting", "running")
    if gone and agent_answers is False:
        return Liveness.DEAD
    # Nothing heard for very long while the provider says it runs: then the heartbeat and the refused connection count.
    if agent_answers is False and heartbeat_age_s is not None and heartbeat_age_s > 10 * stale_s:
        return Liveness.DEAD
    return Liveness.INCONCLUSIVE
