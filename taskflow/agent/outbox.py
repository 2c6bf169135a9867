"""Delivering what lies in the outbox: until answered, in order for each workspace, across restarts."""

from __future__ import annotations

import json
import logging
import threading
import time

from taskflow.agent.store import Delivery, Store, Workspace
from taskflow.agent.wire import LONGEST_WAIT_S, Answer, Wire, wait_s

log = logging.getLogger(__name__)

_POLL_S = 0.25


#: What a short report keeps of the one that was refused; each of these has a length of its own that is bounded.
_KEPT = (
    "status", "base_commit",
    "outcome", "exit_code", "commit", "output_branch", "pushed", "log_chunks", "log_truncated", "duration_s",
)  # fmt: skip


def short_report(payload: str, answer: Answer) -> str | None:
    """What is sent once instead of an outcome that was refused for its form; None when it was a short one already.

    Without it the one who waits for the outcome would wait until a deadline of hours.
    """
    report = json.loads(payload)
    error = report.get("error") or {}
    if error.get("phase") == "report":
        return None
    said = answer.body.get("error")
    code = str(said.get("code", ""))[:50] if isinstance(said, dict) else ""
    too_large = answer.status == 413 or code == "too_large"
    why = f"a report of {len(payload)} bytes was refused with {answer.status} {code}".strip()
    return json.dumps(
        {key: report[key] for key in _KEPT if key in report}
        | {
            "error": {
                "code": "result_too_large" if too_large else "result_refused",
                "message": f"{why}; this is what could be kept of it. {error.get('message', '')[:500]}".strip(),
                "phase": "report",
            }
        }
    )


class Outbox:
    """The one sender thread."""

    def __init__(self, store: Store, wire: Wire) -> None:
        self._store = store
        self._wire = wire
        self._news = threading.Event()

    def start(self) -> None:
        """Start sending."""
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def ring(self) -> None:
        """Something new lies in the outbox."""
        self._news.set()

    def _run(self) -> None:
        while True:
            self._news.wait(_POLL_S)
            self._news.clear()
            try:
                for delivery in self._store.due_deliveries(time.time(), LONGEST_WAIT_S * 2):
                    self._send(delivery)
            except Exception:
                log.exception("outbox")
                time.sleep(1.0)

    def _send(self, delivery: Delivery) -> None:
        workspace = self._store.workspace(delivery.workspace_id)
        if workspace is None or workspace.silenced:
            self._store.delivered(delivery.seq)
            return
        answer = self._wire.post(delivery.path, workspace.key, delivery.payload)
        if answer.accepted:
            log.info("delivered %s", delivery.delivery_id)
            self._store.delivered(delivery.seq)
            self._news.set()
        elif answer.status == 401 and self._was_renewed(workspace):
            self._news.set()
        elif answer.misfit and (short := short_report(delivery.payload, answer)) is not None:
            log.error("refused for its form (%s), a short one follows: %s", answer.status, delivery.delivery_id)
            self._store.replace_delivery(delivery.seq, short)
            self._news.set()
        elif answer.final:
            log.warning("refused for good (%s): %s", answer.status, delivery.delivery_id)
            self._store.delivered(delivery.seq)
            if answer.over:
                self._store.silence(delivery.workspace_id)
        else:
            self._store.postpone(delivery.seq, time.time() + wait_s(delivery.attempts))

    def _was_renewed(self, used: Workspace) -> bool:
        """Whether the token was replaced while it was refused: then the new one is to be tried."""
        now = self._store.workspace(used.id)
        return now is not None and now.key != used.key
