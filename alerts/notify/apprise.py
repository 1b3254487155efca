"""Messages to a hundred other services (mail, chats, MQTT), through the library apprise.

The library opens its own connections, so a separate process sends each message (see
`apprise_process`). It is killed if it takes too long, has no proxy, and cannot connect to an
address that is not allowed.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import UUID

from pydantic import model_validator

from alerts.dispatch.messages import message_text, message_title, parse_message
from alerts.notify.apprise_services import SendRequest, parse_services
from alerts.notify.egress import PUBLIC_ONLY, EgressAllowlist
from alerts.notify.outcomes import (
    Delivered,
    DeliveryOutcome,
    Retry,
    local_failure_retry,
    printable,
    unreadable_retry,
)
from alerts.notify.receivers import EndpointSettings, secret_parts

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

    def send(self, _: UUID, body: bytes, __: datetime, /) -> DeliveryOutcome:
        """Send a message as text; never raises for what the service does."""
        try:
            message = parse_message(body)
        except ValueError as error:
            return unreadable_retry(error)
        return _run_process(
            self.command,
            SendRequest(
                url=self.url,
                title=message_title(message),
                text=message_text(message),
                seconds=TIMEOUT,
                everything=self.allowed.everything,
                nets=tuple(map(str, self.allowed.nets)),
                hosts=tuple(sorted(self.allowed.hosts)),
            ),
        )

    def secret_words(self) -> Iterable[str]:
        """Return the url and its parts."""
        return (self.url, *secret_parts(self.url.partition("://")[2]))


class AppriseSettings(EndpointSettings):
    """A service as apprise writes it, say mailto:// or slack://; all of it is a secret."""

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        check_apprise_url(self.url.get_secret_value())
        return self

    def build(self, name: str, stills: Path | None = None) -> AppriseReceiver:
        """Return the receiver; it attaches no stills."""
        return AppriseReceiver(name=name, url=self.url.get_secret_value(), allowed=self.allowed)


def check_apprise_url(url: str) -> None:
    """Raise ValueError, without the URL, unless apprise knows services of the network by it."""
    with _silenced("apprise"):
        parse_services(url)


def _run_process(command: Sequence[str], request: SendRequest) -> DeliveryOutcome:
    """Run a process with the request on its stdin: a command line is visible to all users."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    try:
        ended = subprocess.run(  # noqa: S603  # our own module
            command,
            input=json.dumps(asdict(request)).encode(),
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
    """Return the outcome of a process from its exit code and its report; never raises."""
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
    """Keep a library from logging its input, and from warnings about its imports."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.disabled = before
