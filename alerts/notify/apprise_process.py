"""The process that sends one message by apprise: reads a request, writes a report.

An audit hook checks every address that is connected to, also after a redirect or a changed name.
It refuses an address that is not allowed, and the report names it. It refuses all access to this
machine, too: a service starts no process, changes no file, and reads only Python's own files.
"""

import json
import logging
import mimetypes
import os
import re
import signal
import socket
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from alerts.notify.apprise_services import SendRequest, parse_services
from alerts.notify.egress import AddressRefused, EgressAllowlist, parse_allowlist
from alerts.notify.network import resolve

_CONNECTS = {"socket.connect", "socket.sendto"}
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_LOCAL_EVENTS = (
    "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "subprocess.",
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir",
    "os.symlink", "os.truncate", "shutil.", "sqlite3.", "syslog.",
)  # fmt: skip
_READABLE = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(each for each in sys.path if each.endswith("-packages")), *mimetypes.knownfiles, os.devnull,
    "/usr/share/zoneinfo", "/etc/localtime", "/etc/timezone", "/etc/resolv.conf", "/etc/hosts",
)  # fmt: skip
"""The files that Python and its libraries read."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_ADDRESS_HINT = "if it is yours, name its net or host under `allow`"
_FILE_HINT = "name a service of the network, without options that name files"
_MIN_SECRET = 4


class SandboxHook:
    """Refuse connections that are not allowed, and while sealed all access to this machine.

    `refusals` are the reason and hint of each refusal.
    """

    def __init__(self, allowed: EgressAllowlist) -> None:
        self._allowed = allowed
        self.is_sealed = False
        self.refusals: list[tuple[str, str]] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Check an audit event (PEP 578); raises PermissionError to end the action."""
        if event in _CONNECTS:
            self._check_connection(*arguments)
        elif self.is_sealed and (
            event.startswith(_LOCAL_EVENTS) or _is_file_access(event, arguments)
        ):
            self._refuse("it reaches for a file or a program of this machine", _FILE_HINT)

    def _check_connection(self, connecting: socket.socket, address: Any) -> None:
        try:
            if connecting.family not in _INTERNET:
                raise AddressRefused("a socket of this machine is no receiver")
            self._allowed.check("", [str(address[0])])
        except (AddressRefused, ValueError) as error:
            self._refuse(str(error), _ADDRESS_HINT)

    def _refuse(self, reason: str, hint: str) -> None:
        self.refusals.append((reason, hint))
        raise PermissionError(reason) from None


def _is_file_access(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether an event opens a file to write, or one that is not Python's own."""
    if event != "open" or isinstance(arguments[0], int):
        return False
    path = Path(os.fsdecode(arguments[0])).resolve()
    if path == Path(os.devnull):
        return False
    return bool(arguments[2] & _WRITES) or not any(map(path.is_relative_to, _READABLE))


class WarningCollector(logging.Handler):
    """Keep the warnings of the library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.messages.append(record.getMessage())


def main() -> None:
    """Send the message of the request on stdin; write the report to stdout."""
    request = SendRequest(**json.load(sys.stdin))
    signal.alarm(int(request.seconds) + 1)  # in case the parent that would kill it is gone
    allowed = parse_allowlist([*request.nets, *request.hosts], everything=request.everything)
    hook = SandboxHook(_with_resolved_hosts(allowed))
    sys.addaudithook(hook)
    os.environ["NETRC"] = os.devnull  # the receiver gets no password of this machine
    sys.dont_write_bytecode = True
    sys.stdout.write(json.dumps(_send(request, hook)))


def _send(request: SendRequest, hook: SandboxHook) -> dict[str, Any]:
    import apprise  # noqa: PLC0415  # once the hook is installed

    collector = WarningCollector()
    logging.basicConfig(handlers=[collector], level=logging.WARNING)
    memory = apprise.PersistentStoreMode.MEMORY
    asset = apprise.AppriseAsset(async_mode=False, secure_logging=True, storage_mode=memory)
    service = apprise.Apprise(asset=asset)
    try:
        services = parse_services(request.url, asset)
    except ValueError as error:
        return {"sent": False, "reason": str(error), "hint": ""}
    for each in services:
        each.overflow_mode = apprise.OverflowMode.SPLIT  # many services refuse a long text
        service.add(each)
    hook.is_sealed = True
    sent = service.notify(title=request.title, body=request.text)
    if hook.refusals:
        reason, hint = hook.refusals[-1]
        return {"sent": bool(sent), "reason": reason, "hint": hint}
    message = (
        redact_url(collector.messages[-1], request.url)
        if collector.messages
        else "the service did not"
    )
    return {"sent": bool(sent), "reason": f"apprise: {message}", "hint": "compare the URL's parts"}


def redact_url(text: str, url: str) -> str:
    """Redact every part of the URL: any of them may be a token."""
    parts = re.split(r"[^\w.~%+-]+", url.partition("://")[2])
    words = {word for part in parts for word in (part, unquote(part)) if len(word) >= _MIN_SECRET}
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "***")
    return text


def _with_resolved_hosts(allowed: EgressAllowlist) -> EgressAllowlist:
    """Allow the addresses of the hosts that are allowed by name."""
    nets = [ip_network(address) for address in _resolve_all(allowed.hosts)]
    return replace(allowed, nets=(*allowed.nets, *nets))


def _resolve_all(hosts: Iterable[str]) -> Iterable[str]:
    for host in hosts:
        try:
            yield from resolve(host, 0)
        except OSError:
            continue


if __name__ == "__main__":
    main()
