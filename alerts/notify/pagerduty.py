"""Incidents as events of PagerDuty's Events API v2: one event per incident of a message.

`dedup_key` is the id of the incident, so a message posted twice changes nothing. A storm raises
ten alerts, for the worst incidents, and one more: "4,990 more incidents". With each token of the
rate limit ten more alerts follow, worst first. The alert for the rest is resolved in the end.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from pydantic import SecretStr, model_validator

from alerts.dispatch.messages import (
    TEST,
    MessageIncident,
    NotificationMessage,
    message_title,
    parse_message,
)
from alerts.notify.http import PUBLIC_EGRESS, EgressPolicy, check_url, post_json
from alerts.notify.outcomes import Delivered, DeliveryOutcome, unreadable_retry
from alerts.notify.receivers import EndpointSettings
from storage.records.notifications import DIGEST

EVENTS_URL = "https://events.pagerduty.com/v2/enqueue"
_MAX_SUMMARY = 1024
_SEVERITIES = {"critical": "critical", "high": "error", "medium": "warning", "low": "info"}
_ACTIONS = {
    "open": "trigger",
    "acknowledged": "acknowledge",
    "resolved": "resolve",
    "dismissed": "resolve",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDuty:
    """A service of PagerDuty; its key does not show in a repr."""

    name: str
    routing_key: str = field(repr=False)
    url: str = field(default=EVENTS_URL, repr=False)
    egress: EgressPolicy = field(default=PUBLIC_EGRESS, repr=False)

    def send(self, _: UUID, body: bytes, now: datetime, /) -> DeliveryOutcome:
        """Post the events of a message until one fails; return the outcome of the last."""
        try:
            events = build_events(parse_message(body))
        except ValueError as error:
            return unreadable_retry(error)
        outcome: DeliveryOutcome = Delivered()
        for event in events:
            encoded = json.dumps({"routing_key": self.routing_key, **event}).encode()
            outcome = post_json(self.url, {}, encoded, now, self.egress)
            if not isinstance(outcome, Delivered):
                break
        return outcome

    def secret_words(self) -> Iterable[str]:
        """Return the routing key and the url."""
        return (self.routing_key, self.url)


class PagerDutySettings(EndpointSettings):
    """A service of PagerDuty: the key of its Events API v2 integration."""

    is_pager = True
    routing_key: SecretStr
    url: SecretStr = SecretStr(EVENTS_URL)

    @model_validator(mode="after")
    def _check_url_and_key(self) -> Self:
        check_url(self.url.get_secret_value(), allowed=self.allowed)
        if not re.fullmatch("[A-Za-z0-9]{32}", self.routing_key.get_secret_value()):
            raise ValueError("routing_key must be the 32 characters that PagerDuty shows")
        return self

    def build(self, name: str, stills: Path | None = None) -> PagerDuty:
        """Return the receiver; it attaches no stills."""
        return PagerDuty(
            name=name,
            routing_key=self.routing_key.get_secret_value(),
            url=self.url.get_secret_value(),
            egress=EgressPolicy(allowed=self.allowed),
        )


def build_events(message: NotificationMessage) -> list[dict[str, Any]]:
    """Return the events of a message: one per incident, and one for the incidents that wait.

    A test has two events, a heartbeat none.
    """
    if message.kind == TEST:
        key = f"longwatch-test-{message.receiver}"
        payload = _payload(message_title(message), message.site or "longwatch", "info", message.at)
        return [_event("trigger", key, payload), _event("resolve", key)]
    events = [
        _event(
            _ACTIONS.get(incident.state, "trigger"),
            incident.id,
            _incident_payload(incident, message),
        )
        | _links(incident)
        for incident in message.incidents
    ]
    if message.more is not None and message.part == message.parts:
        events += _remaining_alert(message, message.more)
    return events


def _remaining_alert(message: NotificationMessage, more: int) -> list[dict[str, Any]]:
    """Return the event of the one alert for all incidents that wait, if it changes."""
    key = f"longwatch-{DIGEST}-{message.group.get(DIGEST, message.receiver)}"
    if more:
        summary = f"{more:,} more incidents, see `longwatch incidents list`"
        worst = message.incidents[0].severity if message.incidents else ""
        severity = _SEVERITIES.get(worst, "warning")
        return [_event("trigger", key, _payload(summary, "longwatch", severity, message.at))]
    return [] if message.incidents else [_event("resolve", key)]


def _event(action: str, key: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {"event_action": action, "dedup_key": key, "client": "longwatch"}
    return event if payload is None else event | {"payload": dict(payload)}


def _incident_payload(incident: MessageIncident, message: NotificationMessage) -> dict[str, Any]:
    """Return the payload: the site and camera as the source, all fields as details."""
    severity = _SEVERITIES.get(incident.severity, "warning")
    source = f"{message.site}/{incident.camera}" if message.site else incident.camera
    known = {"site": message.site, "labels": dict(message.labels)}
    details = dict(incident.fields) | {name: value for name, value in known.items() if value}
    about = {"component": incident.camera, "class": incident.rule, "custom_details": details}
    return _payload(incident.summary, source, severity, incident.at) | about


def _links(incident: MessageIncident) -> dict[str, Any]:
    """Return the link to an incident, if the message has one."""
    url = incident.fields.get("url")
    return {"links": [{"href": url, "text": "the incident in longwatch"}]} if url else {}


def _payload(summary: str, source: str, severity: str, at: str) -> dict[str, Any]:
    return {
        "summary": summary[:_MAX_SUMMARY],
        "source": source,
        "severity": severity,
        "timestamp": at,
    }
