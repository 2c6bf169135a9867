"""Servers of the clouds that Apache Libcloud drives. DigitalOcean and Vultr are tested; a few others can be configured.

The server's name is the label. These clouds take two servers of one name, so the look-up before a create, made late enough,
is what keeps a server from being bought twice; what is ours is told by the label's prefix, which names the installation.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import requests
from libcloud.common.exceptions import BaseHTTPError, RateLimitReachedError
from libcloud.common.types import InvalidCredsError
from libcloud.common.vultr import VultrException
from libcloud.compute.base import Node, NodeDriver, NodeImage, NodeLocation, NodeSize
from libcloud.compute.providers import get_driver
from libcloud.compute.types import NodeState

from taskflow.errors import OutcomeUnknown, StepError, UsageError
from taskflow.nodes.providers.base import (
    UNKNOWN,
    AccessRefused,
    Leftover,
    NoCapacity,
    NodeOrder,
    OrderInvalid,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    Server,
)
from taskflow.nodes.providers.cloud_leftovers import list_leftovers, release_leftover

_Answer = TypeVar("_Answer")

_STATES: dict[NodeState, str] = {
    NodeState.RUNNING: "running", NodeState.PENDING: "starting", NodeState.STARTING: "starting",
    NodeState.STOPPED: "stopped", NodeState.TERMINATED: "destroyed",
}  # fmt: skip
_BY_STATUS: dict[int, type[StepError]] = {
    400: OrderInvalid, 401: AccessRefused, 403: AccessRefused, 404: OrderInvalid, 422: OrderInvalid, 429: RateLimited,
}  # fmt: skip
#: Where a cloud tells a full account and a full data centre from a wrong order in words only. An unknown wording falls
#: back to what the status says; the conformance tests hold those that are known.
_BY_WORDS: dict[str, tuple[tuple[str, type[StepError]], ...]] = {
    "digitalocean": (
        ("droplet limit", QuotaReached), ("not available in this region", NoCapacity),
        ("currently unavailable", NoCapacity),
    ),
    "vultr": (
        ("maximum monthly fee limit", QuotaReached), ("instance limit", QuotaReached),
        ("not available in the selected region", NoCapacity), ("rate limit", RateLimited),
    ),
}  # fmt: skip
#: How drivers call the argument of ``create_node`` that takes user data.
_USER_DATA = ("ex_user_data", "ex_userdata")
#: Only true servers: Vultr's bare metal is a second listing that nothing here ever buys.
_LISTING: dict[str, dict[str, Any]] = {"vultr": {"ex_list_bare_metals": False}}


#: Drivers whose constructor takes nothing but the key; what else there is to say is said to their connection.
_KEY_ONLY = frozenset({"digitalocean"})


def _make_driver(cloud: str, key: str, options: Mapping[str, Any]) -> NodeDriver:
    if cloud not in _KEY_ONLY:
        return get_driver(cloud)(key, **options)
    made: NodeDriver = get_driver(cloud)(key)
    connection: Any = made.connection
    for name, value in options.items():
        setattr(connection, name, value)
    connection.connect()
    return made


def state_of(said: NodeState) -> str:
    """A server's state from the library's word for it."""
    return _STATES.get(said, UNKNOWN)


def _user_data_argument(name: str, cloud: str, key: str, options: Mapping[str, Any]) -> str:
    """What the driver calls the user data of a new server. Raises ``UsageError`` for a cloud at which no node can be made:
    there is no such driver, it does not take these options, or its servers can't be told who they are. Asks nobody."""
    try:
        made: Any = get_driver(cloud)
    except Exception as error:  # of a name that was given up a bare one, which says what to use instead
        raise UsageError(f"provider {name}: Apache Libcloud has no driver {cloud}: {error}") from None
    try:
        # Without its ``__init__``, in which some drivers sign in: this says which class of several it would be.
        driver = type(made.__new__(made, key, **options))
        inspect.signature(driver.__init__).bind(None, key, **options)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UsageError(f"provider {name}: driver {cloud} can't be made with its options: {error}") from None
    order = dict.fromkeys(("name", "size", "image", "location"))
    takes = inspect.signature(driver.create_node)
    for argument in _USER_DATA:
        if argument in takes.parameters:
            try:
                takes.bind(None, **order, **{argument: ""})
            except TypeError as error:
                raise UsageError(f"provider {name}: driver {cloud} sells nothing by size and place: {error}") from None
            return argument
    raise UsageError(f"provider {name}: driver {cloud} takes no user data, by which a server learns who it is")


class LibcloudProvider:
    """``driver`` is libcloud's name of the cloud, ``key`` its credential, ``options`` further arguments of the driver.

    Making one raises ``UsageError`` for a cloud at which no node can be made.
    """

    creates_once, told_at_once = False, False

    def __init__(
        self, name: str, *, driver: str, key: str, image: str, prefix: Callable[[], str], timeout_s: float,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._cloud = driver
        self._image = image
        self._prefix = prefix
        # To connect, for each of two addresses, and to answer. What is sold is sold when the request arrives: that has to
        # be within the limit also where a first address swallows it.
        connect_s = min(3.0, timeout_s / 4)
        given = {"timeout": (connect_s, timeout_s - 2 * connect_s), **(options or {})}
        self._user_data = _user_data_argument(name, driver, key, {} if driver in _KEY_ONLY else given)
        self._make = lambda: _make_driver(driver, key, given)
        #: Whether the call that this thread makes has sent anything yet.
        self._sent = threading.local()
        self._driver_made: NodeDriver | None = None

    def find_by_label(self, label: str) -> Server | None:
        """The server of this name, if the listing has one."""
        found = self._by_name(label)
        return None if found is None else self._server(found)

    def create(self, order: NodeOrder) -> Server:
        """Buy it. No answer is ``OutcomeUnknown``."""
        driver: Any = self._driver()
        more = {self._user_data: order.user_data} if order.user_data else {}
        self._sent.yes = False
        made = self._ask(
            lambda: driver.create_node(
                name=order.label,
                # Known by their ids: to list sizes and places first would cost requests and could fail.
                size=NodeSize(order.size, order.size, 0, 0, 0, 0.0, driver),
                image=NodeImage(self._image, self._image, driver),
                location=NodeLocation(order.location, order.location, "", driver),
                **more,
            ),
            buys=True,
        )
        return self._server(made)

    def get(self, server_id: str) -> Server | None:
        """Its state now, from the listing: not every driver can ask for one server."""
        found = next((node for node in self._list() if str(node.id) == server_id), None)
        return None if found is None else self._server(found)

    def destroy(self, server_id: str, *, ask: bool = True) -> bool:
        """Ask for its deletion, and look until it is not listed any more. ``server_id`` may be a label."""
        found = next((node for node in self._list() if server_id in (str(node.id), node.name)), None)
        if found is None:
            return True
        if ask:
            with self._errors(gone_is_fine=True):
                self._driver().destroy_node(found)
        return False

    def inventory(self) -> Iterator[Server]:
        """All servers whose name begins with this installation's prefix."""
        prefix = self._prefix()
        yield from (self._server(node) for node in self._list() if node.name.startswith(prefix))

    def leftovers(self) -> Iterator[Leftover]:
        """Volumes, and addresses where they have names, whose name begins with this installation's prefix."""
        yield from self._ask(lambda: list_leftovers(self._cloud, self._driver(), self._prefix()))

    def release(self, leftover: Leftover) -> bool:
        """Delete it, if the listing still has it as it was."""
        again = {one.id: one for one in self.leftovers()}.get(leftover.id)
        if again is None:
            # No longer ours, or no longer there: either way there is nothing of ours to give up.
            return True
        if again.label != leftover.label or again.attached_to is not None:
            return False
        with self._errors(gone_is_fine=True):
            release_leftover(self._driver(), again)
        return True

    def check(self) -> str:
        """List the servers."""
        count = len(self._list())
        return f"the key is accepted; the account has {count} servers"

    # --- inside

    def _driver(self) -> NodeDriver:
        if self._driver_made is None:
            made: Any = self._ask(self._make)  # some drivers sign in when they are made
            send = made.connection.request

            def request(*args: Any, **kwargs: Any) -> Any:
                self._sent.yes = True
                return send(*args, **kwargs)

            made.connection.request = request
            self._driver_made = made
        return self._driver_made

    def _list(self) -> list[Node]:
        return self._ask(lambda: list(self._driver().list_nodes(**_LISTING.get(self._cloud, {}))))

    def _by_name(self, label: str) -> Node | None:
        return next((node for node in self._list() if node.name == label), None)

    def _server(self, node: Node) -> Server:
        created = node.created_at
        return Server(
            server_id=str(node.id), label=node.name, state=state_of(node.state),
            address=next(iter(node.public_ips or []), None), size=str(node.extra.get("size_slug") or node.size or ""),
            location=str(node.extra.get("region") or node.extra.get("location") or ""),
            created_at=created.timestamp() if isinstance(created, datetime) else None,
            mark=self._prefix() if node.name.startswith(self._prefix()) else "",
        )  # fmt: skip

    def _ask(self, call: Callable[[], _Answer], *, buys: bool = False) -> _Answer:
        with self._errors(buys=buys):
            return call()
        raise AssertionError  # the context manager returns or raises

    @contextmanager
    def _errors(self, *, buys: bool = False, gone_is_fine: bool = False) -> Iterator[None]:
        try:
            yield
        except InvalidCredsError as error:
            raise AccessRefused(f"{self._cloud}: the credential is not accepted") from error
        except RateLimitReachedError as error:
            raise RateLimited(f"{self._cloud}: too many requests", retry_after_s=error.retry_after or None) from error
        except (BaseHTTPError, VultrException) as error:
            if gone_is_fine and error.code == 404:
                return
            raise self._typed(int(error.code), str(error.message), buys=buys) from error
        except requests.ConnectTimeout as error:
            raise ProviderUnavailable(f"{self._cloud} could not be reached in time") from error
        except StepError:
            raise
        except Exception as error:
            if buys and not self._sent.yes:
                raise OrderInvalid(f"{self._cloud}'s driver can't make this order: {type(error).__name__}") from error
            # Not only what the connection raises: drivers stumble (AttributeError, KeyError) over a page that a proxy
            # sent instead of an answer.
            kind = OutcomeUnknown if buys else ProviderUnavailable
            raise kind(f"{self._cloud} gave no answer: {type(error).__name__}", code="provider_unavailable") from error

    def _typed(self, status: int, message: str, *, buys: bool) -> StepError:
        said = f"{self._cloud}: {message} ({status})"
        words = message.lower()
        kind = next((kind for phrase, kind in _BY_WORDS.get(self._cloud, ()) if phrase in words), None)
        kind = kind or _BY_STATUS.get(status)
        if kind is not None:
            return kind(said)
        if buys:
            return OutcomeUnknown(said, code="provider_unavailable")
        return ProviderUnavailable(said)
