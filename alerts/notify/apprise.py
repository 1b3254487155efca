"""Messages to a hundred other services (mail, chats, MQTT), through the library apprise.

The library opens its own connections, so each message is sent by a process of its own, see
`apprise_process`: it is killed when it takes too long, has no proxy, and cannot connect to an
address that is not allowed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alerts.dispatch.messages import message_text, message_title, parse_message
from alerts.notify.apprise_services import parse_services
from alerts.notify.egress import PUBLIC_ONLY, EgressAllowlist
from alerts.notify.outcomes import (
    Delivered,
    DeliveryOutcome,
    Retry,
    local_failure_retry,
    printable,
    unreadable_retry,
)

TIMEOUT = 30.0
"""Seconds for one message, the start of its process included."""
_ROOT = Path(__file__).parents[2]
_COMMAND = (sys.executable, "-m", "alerts.notify.apprise_process")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseReceiver:
    """A service, named by a URL of apprise, which is a secret; it does not show in a repr.

    `command` starts the process that sends, see `apprise_process`.
    """

    name: str
    url: str = field(repr=False)
    allowed: EgressAllowlist = field(default=PUBLIC_ONLY, repr=False)
    command: tuple[str, ...] = field(default=_COMMAND, repr=False)


def send(service: AppriseReceiver, body: bytes) -> DeliveryOutcome:
    """Send a message as text and say what came of it; never raises for what a service does."""
    try:
        message = parse_message(body)
    except ValueError as error:
        return unreadable_retry(error)
    return _run_process(
        service,
        {
            "url": service.url,
            "title": message_title(message),
            "text": message_text(message),
            "seconds": TIMEOUT,
            "everything": service.allowed.everything,
            "nets": [str(net) for net in service.allowed.nets],
            "hosts": sorted(service.allowed.hosts),
        },
    )


def check_apprise_url(url: str) -> None:
    """Raise ValueError, without the URL, unless apprise knows services of the network by it."""
    with _silenced("apprise"):
        parse_services(url)


def _run_process(service: AppriseReceiver, request: dict[str, object]) -> DeliveryOutcome:
    """Hand an order to a process, on its stdin: what stands in a command line is no secret."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    try:
        ended = subprocess.run(  # noqa: S603  # our own module
            service.command,
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,
            cwd=_ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Retry(reason=f"not sent within {TIMEOUT:.0f} s", hint="see whether it runs")
    except OSError as error:
        return local_failure_retry(error)
    return outcome_from_process(ended.returncode, ended.stdout)


def outcome_from_process(exit_code: int, report: bytes) -> DeliveryOutcome:
    """Read how the process ended and the report on its stdout; never raises."""
    if exit_code != 0:
        return Retry(reason=f"apprise ended with {_exit_text(exit_code)}")
    try:
        fields = json.loads(report)
        sent, reason, hint = fields["sent"], str(fields["reason"]), str(fields["hint"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return Retry(reason="apprise ended without a report")
    if sent is True:
        return Delivered()
    return Retry(reason=printable(reason) or "apprise does not say why", hint=printable(hint))


def _exit_text(exit_code: int) -> str:
    known = {-each: each.name for each in signal.Signals}
    if exit_code < 0:
        return f"signal {known.get(exit_code, -exit_code)}"
    return f"exit code {exit_code}"


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep a library from logging what it was given, and from warning of its own old imports."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.disabled = before
