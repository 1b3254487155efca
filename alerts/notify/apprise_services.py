"""Which of apprise's services may be a receiver: those of the network, and none of this machine.

A URL can name several services, and options that read files: all of them are checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_BUILT_IN = "apprise.plugins."
_LOCAL_TEMPLATE = "{schema}://"
"""The template of a service without an address: syslog, a desktop, a light on USB."""
_FILE_OPTIONS = frozenset({"config", "keyfile", "pgppriv", "pgpprv", "pgppub", "subfile"})
_READS_FILE_ERROR = "url has an option that reads a file of this machine: leave it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """A message, and what the process that sends it may connect to."""

    url: str
    title: str
    text: str
    seconds: float
    everything: bool
    nets: tuple[str, ...]
    hosts: tuple[str, ...]


def parse_services(url: str, asset: "AppriseAsset | None" = None) -> list["NotifyBase"]:
    """Return the services that a URL names; raises ValueError, without the URL, for any other."""
    import apprise  # noqa: PLC0415  # takes 0.3 s, and most sites need none

    if _names_file_option(url):
        raise ValueError(_READS_FILE_ERROR)
    group = apprise.Apprise(asset=asset)
    if not group.add(url) or not len(group):
        raise ValueError(
            "url is no service of apprise, or one that needs a library more:"
            " see https://appriseit.com/services/"
        )
    services = list(group)
    if not all(is_network_service(type(each)) for each in services):
        raise ValueError("url is a service of this machine itself: name one of the network")
    if any(list(_file_options(each)) for each in services):
        raise ValueError(_READS_FILE_ERROR)
    return services


def is_network_service(service: type["NotifyBase"]) -> bool:
    """Return whether a service is built into apprise and always has an address."""
    return service.__module__.startswith(_BUILT_IN) and _LOCAL_TEMPLATE not in service.templates


def _names_file_option(url: str) -> bool:
    options = parse_qsl(url.partition("?")[2], keep_blank_values=True)
    return any(name.lower() in _FILE_OPTIONS for name, _ in options)


def _file_options(part: object, depth: int = 2) -> Iterator[object]:
    """Yield what a service, or a part of it, reads from a file: a template or a key."""
    from apprise import AppriseAttachment  # noqa: PLC0415

    for value in vars(part).values():
        if isinstance(value, AppriseAttachment):
            yield from value
        elif depth and type(value).__module__.startswith("apprise.") and hasattr(value, "__dict__"):
            yield from _file_options(value, depth - 1)
