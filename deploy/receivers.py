"""From the settings of receivers to receivers, and which of their words are secrets."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit

from alerts.apprise import Apprise
from alerts.pagerduty import PagerDuty
from alerts.posting import Door
from alerts.receivers import Receiver
from alerts.settings import ReceiverSettings
from alerts.webhook import Webhook
from deploy.data import EVIDENCE_FOLDER
from deploy.settings import Settings

_SHORTEST = 6
"""A shorter part of a URL is no secret, and would blot out half of every line."""


def receivers_of(settings: Settings) -> list[Receiver]:
    """Return all receivers."""
    stills = settings.data / EVIDENCE_FOLDER
    return [receiver_of(name, each, stills) for name, each in settings.receivers.items()]


def receiver_of(name: str, settings: ReceiverSettings, stills: Path | None = None) -> Receiver:
    """Return a receiver from its settings; `stills` is the folder of what it may ask for."""
    if settings.webhook is not None:
        webhook = settings.webhook
        url, door = webhook.url.get_secret_value(), Door(allowed=webhook.allowed)
        wanted = stills if webhook.attach == "still" else None
        return Webhook(name=name, url=url, secrets=webhook.signing, door=door, stills=wanted)
    if settings.pagerduty is not None:
        service = settings.pagerduty
        url, door = service.url.get_secret_value(), Door(allowed=service.allowed)
        key = service.routing_key.get_secret_value()
        return PagerDuty(name=name, routing_key=key, url=url, door=door)
    if settings.apprise is not None:
        url, allowed = settings.apprise.url.get_secret_value(), settings.apprise.allowed
        return Apprise(name=name, url=url, allowed=allowed)
    raise AssertionError("settings name one way to reach a receiver")


def secrets_of(receivers: Iterable[Receiver]) -> Iterator[str]:
    """Yield what must not be shown of receivers, also the parts of a URL behind its host."""
    for receiver in receivers:
        match receiver:
            case Webhook(url=url, secrets=secrets):
                yield from (url, *_parts(urlsplit(url).path + "?" + urlsplit(url).query), *secrets)
            case PagerDuty(routing_key=key, url=url):
                yield from (key, url)
            case Apprise(url=url):
                yield from (url, *_parts(url.partition("://")[2]))
            case _:
                assert_never(receiver)


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[/?&=#:@]+", text) if len(part) >= _SHORTEST]
