"""The port of providers.

Every call is idempotent by ``label``, which is persisted before the first call; the caller looks a label up before it
creates. Errors are the engine's: ``TransientError`` (again later), ``OutcomeUnknown`` (look it up), ``CapacityError`` (no
room), ``PermanentError`` with code ``provider_auth``, ``provider_quota`` or ``provider_invalid``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class NodeOrder:
    """What a node agent needs to know of itself, handed to the server at its creation. The tokens are secret."""

    node_id: str
    label: str
    slots: int
    callback_token: str
    agent_token: str
    heartbeat_interval_s: float


@dataclass(frozen=True)
class Server:
    """A provider's server. ``state``: starting, running, stopped, destroyed."""

    server_id: str
    label: str
    state: str


class Provider(Protocol):
    """What a provider can do."""

    name: str

    def find_by_label(self, label: str) -> Server | None:
        """The server with this label, if the provider has one."""

    def create(self, order: NodeOrder) -> Server:
        """Make a server for ``order``; the same label again answers the same server."""

    def get(self, server_id: str) -> Server | None:
        """The server's present state, None when the provider does not know it."""

    def destroy(self, server_id: str) -> bool:
        """Destroy it; True once it is gone, False while that is under way. A server nobody knows is gone."""

    def inventory(self) -> Iterable[Server]:
        """All servers of this installation at this provider."""
