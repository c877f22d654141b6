"""Which addresses are never called, whatever name leads to them.

The registry says whom to call, and a name in it may come to mean another machine. Loopback and private addresses are
what services have, so they are fine; but these never are: link-local addresses (RFC 3927, RFC 4291), where clouds
answer with the credentials of the machine; other addresses of such metadata services; the unspecified address and the
rest of 0.0.0.0/8 (RFC 6890), which reach the machine itself by a name that nobody registered; multicast, broadcast
and reserved ones. IPv6 addresses that stand for IPv4 addresses (mapped, compatible, NAT64, 6to4, Teredo) are held
against the address that they stand for.

Every address that a name resolves to is checked, and one that is forbidden refuses the name. What was checked is what
is connected to: the name is not looked up again, and the socket is made for the very address, which is checked once
more then. A connection that is kept alive costs nothing.
"""

import ipaddress
import socket
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA: Final = "a cloud's metadata service"
_FORBIDDEN: Final = tuple(
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("100.100.100.200/32", _METADATA),
        ("168.63.129.16/32", _METADATA),
        ("169.254.0.0/16", "link-local"),
        ("192.0.0.192/32", _METADATA),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("fd00:ec2::254/128", _METADATA),
        ("fd20:ce::254/128", _METADATA),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)
_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


class Forbidden(OSError):  # noqa: N818 - a condition
    """No connection is made; a sentence that names the address."""


def forbidden(address: Address) -> str | None:
    """What keeps it from being called, or None: 'link-local'."""
    for each in (address, *_stands_for(address)):
        for network, what in _FORBIDDEN:
            if each.version == network.version and each in network:
                return what
    return None


def _stands_for(address: Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that are written within an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def literal_fault(host: str) -> str | None:
    """Why the host of a URL may not be called, where that can be told without looking a name up."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            usual = ipaddress.IPv4Address(socket.inet_aton(host))  # 2130706433, 0x7f.1, 127.1
        except (OSError, UnicodeError):
            return None
        return f"must write its address as {usual}" if forbidden(usual) is None else _fault(host, usual)
    return _fault(host, address)


def _fault(host: str, address: Address) -> str | None:
    what = forbidden(address)
    return None if what is None else f"names the address {host} ({what}), which is never called"


def _check(host: str, named: str = "") -> None:
    what = forbidden(ipaddress.ip_address(host.partition("%")[0]))
    if what is not None:
        of_name = f"{named!r} is " if named and named != host else ""
        raise Forbidden(f"{of_name}the address {host} ({what}), which is never called")


class _CheckedResolver(AbstractResolver):
    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            _check(each["host"], host)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _checked_socket(info: Any) -> socket.socket:
    family, kind, protocol, _, where = info
    _check(where[0])
    return socket.socket(family, kind, protocol)


class Connector(aiohttp.TCPConnector):
    """Connects to what may be called, and to nothing else. `resolver`: another than the machine's own."""

    def __init__(self, *, resolver: AbstractResolver | None = None, **options: Any) -> None:
        checked = _CheckedResolver(resolver or aiohttp.DefaultResolver())
        super().__init__(resolver=checked, socket_factory=_checked_socket, **options)


def refusal(error: BaseException) -> str | None:
    """What a connection was refused for by us, or None where it failed by itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Forbidden):
            return str(cause)
        cause = getattr(cause, "os_error", None) or cause.__cause__
    return None
