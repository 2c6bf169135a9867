"""The tokens that callbacks are signed with: renewed by the control plane, kept before they are used."""

from __future__ import annotations

import logging
import threading
from typing import Any

from marshmallow import ValidationError

from taskflow import protocol
from taskflow.agent.places import Order
from taskflow.agent.store import Store
from taskflow.agent.wire import Key

log = logging.getLogger(__name__)

_KEPT_AS = "node_token"


class Tokens:
    """The node's own token, and the renewal of all. Thread-safe."""

    def __init__(self, store: Store, order: Order) -> None:
        self._store = store
        self._node_id = order.node_id
        self._lock = threading.Lock()
        self._token, self._generation = order.callback_token, order.callback_generation
        kept = store.recall(_KEPT_AS)
        if kept is not None and kept["generation"] > self._generation:
            self._token, self._generation = kept["token"], kept["generation"]

    def node_key(self) -> Key:
        """What heartbeats are signed with."""
        with self._lock:
            return Key.of_node(self._node_id, self._generation, self._token)

    def take(self, answer: dict[str, Any]) -> None:
        """Use what a heartbeat's answer brings; an answer without tokens, or one that can't be read, brings none."""
        try:
            # An older control plane says its status only.
            said = protocol.HeartbeatAnswerSchema(partial=("status", "time")).load(answer)
        except ValidationError as error:
            log.warning("the heartbeat's answer can't be read: %s", error.messages)
            return
        for workspace_id, renewed in said.get("workspace_tokens", {}).items():
            self._store.renew_token(workspace_id, renewed["token"], renewed["generation"])
        # Last: the first request with it says that this answer was taken.
        if said.get("callback_token") is not None:
            self._renew_node(**said["callback_token"])

    def _renew_node(self, token: str, generation: int) -> None:
        with self._lock:
            if generation <= self._generation:
                return
            # Kept first: the control plane takes a token that was used for one that is known here for good.
            self._store.remember(_KEPT_AS, {"token": token, "generation": generation})
            self._token, self._generation = token, generation
            log.info("the node's token was renewed, generation %s", generation)
