"""What is kept of a node that failed: the end of its agent's log, read once before its server is destroyed.

Best effort: an agent that does not answer in time, or says something that is no log, holds nothing up and fails nothing.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from sqlalchemy import Connection, Row

from taskflow.db.events import append_event
from taskflow.engine.outcomes import Effect
from taskflow.engine.store import RunRow
from taskflow.errors import StepError, TransientError
from taskflow.logs import mask_text
from taskflow.nodes.context import StepTools
from taskflow.protocol import AGENT_LOG_BYTES_MAX

#: Kind of the event; its data is the ``log``, or ``why`` there is none.
AGENT_LOG = "agent_log"
#: How long all of it may take, in seconds; and an answer of the agent once it is connected to.
LIMIT_S = 5.0
_ANSWER_S = 1.5
#: What a database can't hold or would steer a terminal; line ends and tabs stay.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@runtime_checkable
class ReadsLogs(Protocol):
    """A provider that can read the log itself, also when the agent does not live any more."""

    def agent_log(self, server_id: str, *, timeout_s: float) -> str:
        """The end of it. Raises like the other calls of a provider."""


def evidence_effects(
    tools: StepTools, node: Row[Any], error: Mapping[str, Any], *, run: RunRow, now: float, limit_s: float = LIMIT_S
) -> tuple[Effect, ...]:
    """What is written of a node that failed with ``error``, beside what else is: part of the same transaction.

    Asks before, for ``limit_s`` at most, and no longer than ``LIMIT_S``. Nothing where no server was bought.
    """
    if node.server_id is None:
        return ()
    found = _read(tools, node, error, now, min(limit_s, LIMIT_S))

    def effect(tx: Connection) -> None:
        append_event(
            tx, owner_id=run.owner_id, subject_kind="node", subject_id=node.id, run_id=run.id, kind=AGENT_LOG,
            actor="runner", at=now, data=found,
        )  # fmt: skip

    return (effect,)


def _read(tools: StepTools, node: Row[Any], error: Mapping[str, Any], now: float, limit_s: float) -> dict[str, str]:
    """``log``, or ``why`` there is none. Never raises.

    In a thread of its own, as whoever answers a byte a second would hold up any timeout of a connection.
    """
    found: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()

    def read() -> None:
        try:
            found.put({"log": _bounded(_log_of(tools, node, error, now, limit_s))})
        except StepError as refused:
            found.put({"why": mask_text(refused.message)})
        except Exception as bug:
            found.put({"why": f"it can't be read: {type(bug).__name__}"})

    try:
        threading.Thread(target=read, name="evidence", daemon=True).start()
        return found.get(timeout=limit_s)
    except queue.Empty:
        return {"why": f"it was not there within {limit_s:g} s"}
    except RuntimeError:  # no thread more
        return {"why": "there was no room to ask for it"}


def _log_of(tools: StepTools, node: Row[Any], error: Mapping[str, Any], now: float, limit_s: float) -> str:
    provider: object = tools.providers.get(node.provider)
    if isinstance(provider, ReadsLogs):
        return provider.agent_log(node.server_id, timeout_s=limit_s)
    if (error.get("detail") or {}).get("agent_answers") is False:
        raise TransientError("its agent did not answer", code="agent_unreachable")  # it was asked a moment ago
    return str(replace(tools, agent_timeout_s=_ANSWER_S).agent(node, now).get_log()["log"])


def _bounded(text: str) -> str:
    """Its end. What is cut goes by whole words, and before it is masked: a half of a secret would not be known."""
    if len(text) > AGENT_LOG_BYTES_MAX:
        text = text[-AGENT_LOG_BYTES_MAX:].partition(" ")[2]
    said = _UNPRINTABLE.sub("?", mask_text(text))
    return said.encode()[-AGENT_LOG_BYTES_MAX:].decode(errors="ignore")
