"""The port of providers.

Every call is idempotent by ``label``, which is persisted before the first call; the caller looks a label up before it
creates. Seven typed errors, each with an answer of its own in the node machine:

======================  =======================  ================================================================
error                   means                    answer
======================  =======================  ================================================================
``ProviderUnavailable`` no answer worth having   again, with backoff
``HostUnreachable``     the same, of what was      another one, if nothing was asked of this one before;
                        ordered, and nothing got   else again
                        there
``RateLimited``         too many requests        again when the provider says so
``NoCapacity``          nothing of this size here  another size or place; this one rests for a while
``QuotaReached``        the account is full      nothing is bought for a while, those who wait are told, a human acts
``AccessRefused``       a wrong credential       nothing is bought until somebody mended it
``OrderInvalid``        the order can't be met   the node fails
======================  =======================  ================================================================

``OutcomeUnknown`` says that the call may have happened: the label is looked up before anything is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from taskflow.errors import CapacityError, PermanentError, TransientError

#: How a server is whose provider does not answer, or says neither that it serves nor that it is off (it moves, it is being
#: rebuilt, a word that is not known here). No sign of death.
UNKNOWN = "unknown"


class ProviderUnavailable(TransientError):
    """The provider can't be reached, or is out of order."""

    code = "provider_unavailable"


class HostUnreachable(ProviderUnavailable):
    """The machine itself can't be reached: nothing of this call got there. Others of the provider may do."""


class RateLimited(TransientError):
    """Too many requests; ``retry_after_s`` is what the provider's headers said."""

    code = "provider_rate_limited"


class NoCapacity(CapacityError):
    """The provider has no server of this size at this place now."""

    code = "provider_capacity"


class QuotaReached(PermanentError):
    """The account may not have one more; only its holder can change that."""

    code = "provider_quota"


class AccessRefused(PermanentError):
    """The credential is wrong, expired or not allowed to do this."""

    code = "provider_auth"


class OrderInvalid(PermanentError):
    """The provider does not know what was ordered: a size, place or image that does not exist, user data too long."""

    code = "provider_invalid"


@dataclass(frozen=True)
class NodeOrder:
    """A server to be made, and what its node agent needs to know of itself.

    ``size`` and ``location`` are the provider's words, empty where it has none. ``agent`` is the agent's order as
    ``protocol.NodeOrderSchema``, for a provider that hands it over by itself; its tokens and key are secret. ``user_data``
    is what a server runs at its first boot that has to fetch its order; empty for the others.
    """

    node_id: str
    label: str
    agent: Mapping[str, Any] = field(repr=False)
    size: str = ""
    location: str = ""
    user_data: str = ""


@dataclass(frozen=True)
class Server:
    """A provider's server. ``state``: starting, running, stopped, destroyed or ``UNKNOWN``; stopped and destroyed are signs
    of death, so only what is surely off is called that. ``created_at``: epoch, None if not told."""

    server_id: str
    label: str
    state: str
    address: str | None = None
    size: str = ""
    location: str = ""
    created_at: float | None = None
    #: What marks it as this installation's, as the provider says it; empty: it carries no such mark.
    mark: str = ""


@dataclass(frozen=True)
class Leftover:
    """Something else than a server that is paid for: ``kind`` address or volume.

    ``id`` is the provider's, with its own word for what it is (``floating_ips/17``). ``mark`` as a server's: never empty.
    ``attached_to``: the server that has it, None if none does. ``created_at``: epoch, None if not told; ``price_per_hour``:
    None if the provider does not say it.
    """

    kind: str
    id: str
    label: str
    mark: str
    attached_to: str | None = None
    created_at: float | None = None
    price_per_hour: float | None = None


class Provider(Protocol):
    """What a provider can do. Each call has a timeout of its own and makes no second attempt by itself."""

    name: str
    #: A label is never sold twice, so a create that may have happened is repeated at once.
    creates_once: bool
    #: What ``find_by_label`` says is always the latest; elsewhere a new server may be missing for a while.
    told_at_once: bool

    def find_by_label(self, label: str) -> Server | None:
        """The server with this label, if the provider lists one."""

    def create(self, order: NodeOrder) -> Server:
        """Make a server for ``order``. A provider that knows the label answers its server or raises ``OutcomeUnknown``."""

    def get(self, server_id: str) -> Server | None:
        """The server's present state, None when the provider does not know it."""

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """Destroy it; True once it is gone, False while that is under way. A server nobody knows is gone.

        Without ``ask`` it is only looked whether an earlier call is through, where a request for that costs more.
        """

    def inventory(self) -> Iterable[Server]:
        """All servers of this installation at this provider. Raises rather than leave some out."""

    def leftovers(self) -> Iterable[Leftover]:
        """Addresses and volumes that carry this installation's mark. Raises rather than leave some out."""

    def release(self, leftover: Leftover) -> bool:
        """Read it again, and give it up if it still carries the mark and no server has it; False: it was left alone.

        One that nobody knows any more is given up.
        """

    def check(self) -> str:
        """Ask whether the credential works, buying nothing. What was found, in a sentence; raises like the others."""
