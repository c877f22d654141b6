"""Which addresses are never called, whatever name leads to them.

The registry says whom to call, and a name in it may come to mean another machine. Loopback and private addresses are
what services have, so they are fine; but these never are: link-local addresses (RFC 3927, RFC 4291), where clouds
answer with the credentials of the machine; other addresses of such metadata services; the unspecified address and the
rest of 0.0.0.0/8 (RFC 6890), which reach the machine itself by a name that nobody registered; multicast, broadcast
and reserved ones. An IPv6 address that carries an IPv4 address for a translator or a tunnel is judged by both.

Every address that a name resolves to is checked, and one that is forbidden refuses the name. What was checked is what
is connected to: the name is not looked up again, and the socket is made for the very address, which is checked once
more then. A connection that is kept alive costs nothing.

Not promised: to know a NAT64 prefix of the network's own, the broadcast address of a subnet, or a metadata service that
is not in the list. That is for a firewall.
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
        ("::/128", "unspecified"),
        ("169.254.0.0/16", "link-local"),  # 169.254.169.254 of nearly every cloud, 169.254.170.2 of ECS
        ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"),  # RFC 5771
        ("ff00::/8", "multicast"),
        ("255.255.255.255/32", "broadcast"),  # RFC 919
        ("240.0.0.0/4", "reserved"),  # RFC 1112, section 4
        ("fd00:ec2::/32", _METADATA),  # Amazon: ::254, and ::23 for pods
        ("168.63.129.16/32", _METADATA),  # Azure
        ("fd20:ce::254/128", _METADATA),  # Google
        ("192.0.0.192/32", _METADATA),  # Oracle
        ("fd00:c1::a9fe:a9fe/128", _METADATA),
        ("100.100.100.200/32", _METADATA),  # Alibaba
        ("fd00:100::100:200/128", _METADATA),
        ("fd00:a9fe:a9fe::1/128", _METADATA),  # Akamai
        ("fd00:42::42/128", _METADATA),  # Scaleway
        # RFC 8215: RFC 6052 has six places in it where the IPv4 address may stand, so it cannot be looked at.
        ("64:ff9b:1::/48", "of a translator to addresses that cannot be told"),
    )
)
_IN_THE_LAST_32_BITS: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "::/96",  # IPv4-compatible: RFC 4291, 2.5.5.1
            "::ffff:0:0/96",  # IPv4-mapped: RFC 4291, 2.5.5.2
            "::ffff:0:0:0/96",  # IPv4-translated: RFC 2765
            "64:ff9b::/96",  # NAT64: RFC 6052
        ),
    )
)
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""Before an IPv4 address, under any prefix: RFC 5214, 6.1."""


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
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if any(address in network for network in _IN_THE_LAST_32_BITS) or (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFF_FFFF)


def literal_fault(host: str) -> str | None:
    """Why the host of a URL may not be called, where that can be told without looking a name up."""
    number = host.rstrip(".")
    try:
        address = ipaddress.ip_address(number.partition("%")[0])
    except ValueError:
        try:
            usual = ipaddress.IPv4Address(socket.inet_aton(number))  # 2130706433, 0x7f.1, 127.1
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
        if not found:
            raise OSError(f"{host} has no address")  # what aiohttp makes of none is caught by nobody
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
        checked = _CheckedResolver(resolver or aiohttp.ThreadedResolver())
        super().__init__(resolver=checked, socket_factory=_checked_socket, **options)


def refusal(error: BaseException) -> str | None:
    """What a connection was refused for by us, or None where it failed by itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Forbidden):
            return str(cause)
        cause = getattr(cause, "os_error", None) or cause.__cause__
    return None
