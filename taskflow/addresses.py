"""Which network addresses may be reached on somebody else's behalf: repositories that tasks name, agents that nodes report.

Link-local addresses and the metadata services of clouds are never reached: they hand out credentials to whoever asks
from the right machine. Loopback and private addresses are reached where the installation allows it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128")
)
_METADATA_NAMES = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SCP_LIKE = re.compile(r"[^/@\s]+@([^\s/:@]+):")
#: What getaddrinfo reads as an address though it is none in the usual writing: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"[0-9a-fA-FxX.]+")


class AddressRefused(ValueError):
    """The address is one that must not be reached; the text says why, without the resolved address."""


def repository_host(repository: str) -> str | None:
    """The host of a repository's URL, None for a path on the node. ``ValueError`` for what is no URL."""
    if repository.startswith(("/", "file:")):
        return None
    scp_like = None if "://" in repository else _SCP_LIKE.match(repository)
    return scp_like.group(1) if scp_like else (urlsplit(repository).hostname or "")


def check_host(host: str, *, private: bool) -> None:
    """Refuse a host by its name or literal address alone. Raises ``AddressRefused``."""
    name = host.strip("[]").rstrip(".").lower()
    if name in _METADATA_NAMES:
        raise AddressRefused("names the metadata service of a cloud")
    if name == "localhost" or name.endswith(".localhost"):
        name = "127.0.0.1"
    literal = _literal(name)
    if literal is not None:
        _check((literal,), private)


def check_resolved(host: str, *, private: bool, resolve: Callable[[str], Iterable[str]] | None = None) -> None:
    """Refuse a host by what it resolves to now; one that can't be resolved is left to who connects. ``AddressRefused``."""
    check_host(host, private=private)
    try:
        found = (resolve or _resolve)(host.strip("[]"))
    except OSError:
        return  # behind a proxy names may be resolved elsewhere; without one the connection fails by itself
    _check((ipaddress.ip_address(text.split("%")[0]) for text in found), private)


def is_loopback(host: str) -> bool:
    """Whether a literal address or localhost means the machine itself."""
    found = _literal(host.strip("[]").lower())
    return host.lower() == "localhost" or (found is not None and _plain(found).is_loopback)


def _resolve(host: str) -> list[str]:
    return sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)})


def _literal(name: str) -> _Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    if not _NUMERIC.fullmatch(name):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except OSError:
        return None


def _plain(address: _Address) -> _Address:
    """The IPv4 address inside an IPv6 one, where it is only another writing of it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _check(addresses: Iterable[_Address], private: bool) -> None:
    for found in addresses:
        address = _plain(found)
        if address.is_link_local or any(address in network for network in _METADATA):
            raise AddressRefused("is a link-local address or the metadata service of a cloud")
        if address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_private):
            raise AddressRefused("is no address of a host")
        if not private and (address.is_private or address.is_loopback or address in _SHARED):
            raise AddressRefused("is a loopback or private address; TASKFLOW_REPOSITORY_PRIVATE_HOSTS allows them")
