"""Receivers from their settings, and the secrets in them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import assert_never
from urllib.parse import urlsplit

from alerts.notify.apprise import AppriseReceiver
from alerts.notify.http import EgressPolicy
from alerts.notify.pagerduty import PagerDuty
from alerts.notify.receivers import Receiver
from alerts.notify.webhook import Webhook
from alerts.settings import ReceiverSettings
from deploy.config.data_dir import EVIDENCE_FOLDER
from deploy.config.settings import LongwatchSettings

_MIN_SECRET_LENGTH = 6
"""A shorter part of a URL is no secret, and would redact half of every line."""


def build_receivers(settings: LongwatchSettings) -> list[Receiver]:
    """Return all receivers."""
    stills = settings.data / EVIDENCE_FOLDER
    return [build_receiver(name, each, stills) for name, each in settings.receivers.items()]


def build_receiver(name: str, settings: ReceiverSettings, stills: Path | None = None) -> Receiver:
    """Return a receiver from its settings; `stills` is the folder of the evidence."""
    if settings.webhook is not None:
        webhook = settings.webhook
        url, egress = webhook.url.get_secret_value(), EgressPolicy(allowed=webhook.allowed)
        stills_folder = stills if webhook.attach == "still" else None
        return Webhook(
            name=name, url=url, secrets=webhook.signing_secrets, egress=egress, stills=stills_folder
        )
    if settings.pagerduty is not None:
        service = settings.pagerduty
        url, egress = service.url.get_secret_value(), EgressPolicy(allowed=service.allowed)
        key = service.routing_key.get_secret_value()
        return PagerDuty(name=name, routing_key=key, url=url, egress=egress)
    if settings.apprise is not None:
        url, allowed = settings.apprise.url.get_secret_value(), settings.apprise.allowed
        return AppriseReceiver(name=name, url=url, allowed=allowed)
    raise AssertionError("settings name one way to reach a receiver")


def receiver_secrets(receivers: Iterable[Receiver]) -> Iterator[str]:
    """Yield the secrets of receivers, also the parts of a URL after its host."""
    for receiver in receivers:
        match receiver:
            case Webhook(url=url, secrets=secrets):
                parts = _url_parts(urlsplit(url).path + "?" + urlsplit(url).query)
                yield from (url, *parts, *secrets)
            case PagerDuty(routing_key=key, url=url):
                yield from (key, url)
            case AppriseReceiver(url=url):
                yield from (url, *_url_parts(url.partition("://")[2]))
            case _:
                assert_never(receiver)


def _url_parts(text: str) -> list[str]:
    return [part for part in re.split(r"[/?&=#:@]+", text) if len(part) >= _MIN_SECRET_LENGTH]
