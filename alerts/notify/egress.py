"""Which addresses a receiver's host may resolve to: pure values, no network.

Every address outside the public internet is denied, however it is written, unless `allow` names
it. The addresses of cloud metadata services must be named as an address or a net.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Net = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# IANA's registries of special addresses, and the ways to write a private one as a public one.
_DENIED = tuple(
    ip_network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",
        "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_METADATA = tuple(
    ip_network(net)
    for net in (
        "169.254.0.0/16", "192.0.0.192/32", "100.100.100.200/32", "168.63.129.16/32",
        "fd00:ec2::/32", "fd20:ce::254/128", "fe80::a9fe:a9fe/128",
    )
)  # fmt: skip
_IPV4_AT_END = tuple(IPv6Network(net) for net in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_ISATAP = 0x0000_5EFE
_METADATA_NAMES = (
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
)
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*", re.ASCII)


class AddressRefused(Exception):
    """A host, or an address that it resolves to, is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressAllowlist:
    """What may be connected to besides the public internet."""

    everything: bool = False
    nets: tuple[Net, ...] = ()
    hosts: frozenset[str] = frozenset()

    def has_host(self, host: str) -> bool:
        """Return whether a host is allowed by its name, or by its address if it is one."""
        if self.everything or canonical_host(host) in self.hosts:
            return True
        address = _parse_address(host)
        return address is not None and self._has_address(address)

    def check(self, host: str, addresses: list[str]) -> None:
        """Raise AddressRefused unless every address that a host resolves to may be used."""
        name = canonical_host(host)
        if name in _METADATA_NAMES and name not in self.hosts:
            raise AddressRefused(f"{name} names a cloud's metadata service")
        for text in addresses:
            address = _parse_address(text)
            if address is None:
                raise AddressRefused(f"{text} is no address")
            self._check(name, address)

    def check_named(self, host: str) -> None:
        """Raise AddressRefused if the name of a host alone shows that it is not allowed."""
        address = "127.0.0.1" if canonical_host(host) in _LOOPBACK_NAMES else canonical_host(host)
        self.check(host, [address] if _parse_address(address) is not None else [])

    def _check(self, name: str, address: Address) -> None:
        """Check an address and each address embedded in it."""
        judged = (address, *_embedded(address))
        for each in (*judged, *_translated(address)):
            if any(each in net for net in _METADATA) and not self._has_address(each):
                raise AddressRefused(f"{each} is where a cloud hands out credentials")
        for each in judged:
            allowed = self.everything or name in self.hosts or self._has_address(each)
            if not (allowed or _is_public(each)):
                raise AddressRefused(f"{each} is not a public address")

    def _has_address(self, address: Address) -> bool:
        return any(address in net for net in self.nets)


PUBLIC_ONLY = EgressAllowlist()
"""The public internet alone."""


def is_public(text: str) -> bool:
    """Return whether an address, and each embedded in it, is on the public internet."""
    address = _unmapped(ip_address(text))
    return all(_is_public(each) for each in (address, *_embedded(address)))


def parse_allowlist(entries: list[str], *, everything: bool = False) -> EgressAllowlist:
    """Parse nets and hosts: `10.0.0.0/8`, `192.168.1.5`, `soc.local`; raises ValueError."""
    nets, hosts = list[Net](), set[str]()
    for entry in entries:
        try:
            nets.append(ip_network(entry))
        except ValueError:
            hosts.add(_parse_host(entry))
    return EgressAllowlist(everything=everything, nets=tuple(nets), hosts=frozenset(hosts))


def canonical_host(host: str) -> str:
    """Return a host in lower case, without brackets and a final dot."""
    return host.lower().strip("[]").removesuffix(".")


def is_host(text: str) -> bool:
    """Return whether a text can be the host of a URL: an ASCII name, or an address."""
    return _HOST.fullmatch(canonical_host(text)) is not None or _parse_address(text) is not None


def _parse_host(entry: str) -> str:
    looks_like_a_net = "/" in entry or not canonical_host(entry).strip("0123456789.")
    if looks_like_a_net or not is_host(entry):
        raise ValueError("write a net as 10.0.0.0/8, an address, or a host as soc.local")
    return canonical_host(entry)


def _parse_address(host: str) -> Address | None:
    try:
        return _unmapped(ip_address(canonical_host(host)))
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    denied = any(address in net for net in _DENIED)
    return address.is_global and not address.is_multicast and not denied


def _embedded(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a tunnel or translator takes from an IPv6 address.

    NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380), ISATAP (RFC 5214), and the
    IPv4-compatible and IPv4-translated forms.
    """
    if not isinstance(address, IPv6Address) or int(address) <= 1:
        return ()
    if address.teredo:
        return address.teredo
    if address.sixtofour:
        return (address.sixtofour,)
    is_isatap = int(address) >> 32 & 0xFCFF_FFFF == _ISATAP
    if is_isatap or any(address in net for net in _IPV4_AT_END):
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()


def _translated(address: Address) -> tuple[IPv4Address, ...]:
    """Return what a local NAT64 (RFC 8215) may take from an address, for each prefix length."""
    if address not in _LOCAL_NAT64:
        return ()
    high, low = divmod(int(address), 1 << 64)
    low &= (1 << 56) - 1  # the byte after the first 64 bits is never part of it
    bits = (high & (1 << 64) - 1) << 56 | low
    taken = [bits >> 40, bits >> 32, bits >> 24, int(address)]
    return tuple(IPv4Address(each & 0xFFFF_FFFF) for each in taken)


def _unmapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address maps."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
