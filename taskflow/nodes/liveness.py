"""Is it dead? A verdict needs two independent signs, or a silence that no session outlives; unknown is not dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Row

from taskflow.clock import isoformat
from taskflow.errors import PermanentError
from taskflow.nodes.providers.base import UNKNOWN

#: The code of a node's error once the verdict is made, and of the failure of the tasks on it.
NODE_LOST = "node_lost"
#: What a verdict of death is made by. The first: the dead-man time of a node on another machine is over.
SILENCE, SERVER_GONE, UNANSWERED = "silence", "server_gone", "unanswered"
#: A session that its own node ended, as it reached nobody for its dead-man time.
CUT_OFF = "cut_off"
#: What a provider says of a server that is no more; None: it has none.
_GONE = (None, "stopped", "destroyed")
_LONG = 10


class Liveness(Enum):
    """The three verdicts."""

    LIVE = "live"
    INCONCLUSIVE = "inconclusive"
    DEAD = "dead"


@dataclass(frozen=True)
class Verdict:
    """A verdict and the signs it was made from; ``by`` says what decided when it is death."""

    liveness: Liveness
    heartbeat_age_s: float | None
    agent_answers: bool | None = None
    server_state: str | None = None
    by: str | None = None

    @property
    def dead(self) -> bool:
        """Whether it is death."""
        return self.liveness is Liveness.DEAD


def node_verdict(
    *,
    heartbeat_age_s: float | None,
    stale_s: float,
    agent_answers: bool | None,
    server_state: str | None,
    lost_s: float | None = None,
) -> Verdict:
    """The verdict about a node.

    ``lost_s``, for a node on another machine: whoever is silent for longer has ended its sessions by itself, whatever its
    provider says and whether or not it answers; None: on this machine sessions outlive every silence. Other signs of
    death: no heartbeat for ``stale_s``; its agent does not answer (None: not asked); its provider says that the server is
    stopped, destroyed or not there (None). A fresh heartbeat or an answer is life.
    """
    said = heartbeat_age_s, agent_answers, server_state
    if lost_s is not None and heartbeat_age_s is not None and heartbeat_age_s > lost_s:
        return Verdict(Liveness.DEAD, *said, by=SILENCE)
    if agent_answers or (heartbeat_age_s is not None and heartbeat_age_s <= stale_s):
        return Verdict(Liveness.LIVE, *said)
    if server_state in _GONE and agent_answers is False:
        return Verdict(Liveness.DEAD, *said, by=SERVER_GONE)
    if lost_s is None and server_state != UNKNOWN and agent_answers is False and _very_old(heartbeat_age_s, stale_s):
        # Nothing heard for very long on this machine while it is said to run: heartbeat and refused connection count.
        # Between two machines they don't: a link that is cut is one cause of both.
        return Verdict(Liveness.DEAD, *said, by=UNANSWERED)
    return Verdict(Liveness.INCONCLUSIVE, *said)


def verdict_at(
    last_heartbeat_at: float | None, *, stale_s: float, lost_s: float | None, agent_answers: bool | None
) -> float | None:
    """When a node that goes on being silent is given up at the latest; None: while it answers, never."""
    if last_heartbeat_at is None or (lost_s is None and agent_answers is not False):
        return None
    return last_heartbeat_at + (_LONG * stale_s if lost_s is None else lost_s)


def named(beat: Mapping[str, Any] | None) -> list[str] | None:
    """The sessions that a heartbeat names; None when it says nothing of sessions, as an older agent does."""
    sessions = None if beat is None else beat.get("sessions")
    return None if sessions is None else [session["session_id"] for session in sessions]


def unnamed(node: Row[Any], session_id: str, *, since: float) -> bool:
    """Whether the node's last two heartbeats came after ``since``, and neither names the session. That is one sign: one
    that has ended, and is not reported yet, is not named either."""
    beat = node.heartbeat or {}
    before = beat.get("before") or {}
    now_named, before_named = named(beat), before.get("sessions")
    if now_named is None or before_named is None or before["at"] is None or before["at"] <= since:
        return False
    return session_id not in now_named and session_id not in before_named


def is_lost(node: Row[Any]) -> bool:
    """Whether the verdict about this node is made. It stands: who is heard of again afterwards is not taken back."""
    return bool((node.error or {}).get("code") == NODE_LOST)


def lost_error(node: Row[Any], verdict: Verdict, now: float) -> PermanentError:
    """A verdict of death in words, with its signs and their times."""
    silent = (
        "it was never heard of" if verdict.heartbeat_age_s is None else f"silent for {verdict.heartbeat_age_s:.0f} s"
    )
    server = "has no such server" if verdict.server_state is None else f"says that its server is {verdict.server_state}"
    why = {
        SILENCE: "its sessions have ended themselves by now",
        SERVER_GONE: f"its agent does not answer, and its provider {server}",
    }.get(verdict.by or "", "its agent does not answer")
    detail: dict[str, Any] = {
        "by": verdict.by, "last_heartbeat_at": isoformat(node.last_heartbeat_at), "decided_at": isoformat(now),
    }  # fmt: skip
    if verdict.by != SILENCE:  # nobody was asked then
        detail |= {"agent_answers": verdict.agent_answers, "server_state": verdict.server_state}
    return PermanentError(f"node {node.id} is lost: {silent}, {why}", code=NODE_LOST, detail=detail)


def _very_old(heartbeat_age_s: float | None, stale_s: float) -> bool:
    return heartbeat_age_s is not None and heartbeat_age_s > _LONG * stale_s
