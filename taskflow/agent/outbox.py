"""Delivering what lies in the outbox: until answered, in order for each workspace, across restarts."""

from __future__ import annotations

import logging
import threading
import time

from taskflow.agent.store import Delivery, Store
from taskflow.agent.wire import LONGEST_WAIT_S, Wire, wait_s

log = logging.getLogger(__name__)

_POLL_S = 0.25


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
        answer = self._wire.post(delivery.path, workspace.callback_token, delivery.payload)
        if answer.accepted:
            log.info("delivered %s", delivery.delivery_id)
            self._store.delivered(delivery.seq)
            self._news.set()
        elif answer.final:
            log.warning("refused for good (%s): %s", answer.status, delivery.delivery_id)
            self._store.delivered(delivery.seq)
            if answer.over:
                self._store.silence(delivery.workspace_id)
        else:
            self._store.postpone(delivery.seq, time.time() + wait_s(delivery.attempts))
