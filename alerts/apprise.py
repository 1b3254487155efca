"""Messages to a hundred other services (mail, chats, MQTT), through the library apprise.

The library opens its own connections, so each message is sent by a process of its own, see
`apprise_process`: it is killed when it takes too long, has no proxy, and cannot connect to an
address that is not allowed.
"""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from alerts.addresses import PUBLIC, Allowed
from alerts.messages import read_message, text_of, title_of
from alerts.outcomes import Delivered, Outcome, Retry

TIMEOUT = 30.0
"""Seconds for one message, the start of its process included."""
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Apprise:
    """A service, named by a URL of apprise, which is a secret; it does not show in a repr."""

    name: str
    url: str = field(repr=False)
    allowed: Allowed = field(default=PUBLIC, repr=False)


def send(service: Apprise, body: bytes) -> Outcome:
    """Send a message as text and say what came of it; never raises for what a service does."""
    try:
        message = read_message(body)
    except ValueError as error:
        return Retry(reason=f"the delivery cannot be read: {error}")
    return _in_a_process(
        {
            "url": service.url,
            "title": title_of(message),
            "text": text_of(message),
            "seconds": TIMEOUT,
            "everything": service.allowed.everything,
            "nets": [str(net) for net in service.allowed.nets],
            "hosts": sorted(service.allowed.hosts),
        }
    )


def check_apprise_url(url: str) -> None:
    """Raise ValueError, without the URL, when apprise knows no service that is written so."""
    import apprise  # noqa: PLC0415  # takes 0.3 s, and most sites do without

    with _silent("apprise"):
        if apprise.Apprise.instantiate(url) is None:
            raise ValueError(
                "url is no service of apprise, or one that needs a library more:"
                " see https://appriseit.com/services/"
            )


def _in_a_process(order: dict[str, object]) -> Outcome:
    """Hand an order to a process, on its stdin: what stands in a command line is no secret."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "alerts.apprise_process"],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,
            cwd=_ROOT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Retry(reason=f"not sent within {TIMEOUT:.0f} s", hint="see whether it runs")
    if ended.returncode != 0:
        return Retry(reason=f"apprise ended with exit code {ended.returncode}")
    told = json.loads(ended.stdout)
    return Delivered() if told["sent"] else Retry(reason=told["reason"], hint=told["hint"])


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a library from logging what it was given, and from warning of its own old imports."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.disabled = before
