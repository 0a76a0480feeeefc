"""Which addresses belong to the open internet, and to which of them a name leads."""

from __future__ import annotations

import ipaddress
import socket

_UNICAST = ipaddress.ip_network("2000::/3")  # the only part of IPv6 that is given out
_TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))  # 6to4 and Teredo hold IPv4 in them
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64: what a machine without IPv4 is told of an IPv4 address
_LOCAL_NAMES = ("localhost", ".localhost")


class PrivateAddressError(Exception):
    """A host is, or leads to, an address that is not of the open internet."""


def names_private(host: str) -> bool:
    """Whether a host is written as a private address, or by a name that always is one; other names are not looked up.

    Args:
        host: A name or an address, without brackets.
    """
    name = host.rstrip(".").lower()
    if name == _LOCAL_NAMES[0] or name.endswith(_LOCAL_NAMES[1]):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """Whether an address is of the open internet.

    An IPv6 address that stands for an IPv4 one is judged by that.

    Raises:
        ValueError: It is no address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        if mapped is None and parsed in _TRANSLATED:
            mapped = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if mapped is None:
            return parsed in _UNICAST and parsed.is_global and not any(parsed in tunnel for tunnel in _TUNNELS)
        parsed = mapped
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def public_addresses(host: str, port: int) -> list[str]:
    """Looks a host up.

    Args:
        host: A name or an address, without brackets.
        port: Where it is to be asked.

    Returns:
        Its addresses, the preferred one first.

    Raises:
        PrivateAddressError: One of them is private.
        OSError, ValueError: There is no such host.
    """
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(map(is_public, found)):
        raise PrivateAddressError(host)
    return list(dict.fromkeys(found))
