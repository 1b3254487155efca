"""Incidents as events of PagerDuty's Events API v2: one event per incident of a message.

`dedup_key` is the id of the incident, so that a message posted twice changes nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alerts.messages import TEST, Message, Told, read_message, title_of
from alerts.outcomes import Delivered, Outcome, unreadable
from alerts.posting import FRONT, Door, post_json

EVENTS = "https://events.pagerduty.com/v2/enqueue"
_LONGEST_SUMMARY = 1024
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
    url: str = field(default=EVENTS, repr=False)
    door: Door = field(default=FRONT, repr=False)


def send(pagerduty: PagerDuty, body: bytes, now: datetime) -> Outcome:
    """Post every event of a message until one fails; say what came of the last."""
    try:
        events = [_sent(pagerduty, event) for event in events_of(read_message(body))]
    except ValueError as error:
        return unreadable(error)
    outcome: Outcome = Delivered()
    for event in events:
        outcome = post_json(pagerduty.url, {}, event, now, pagerduty.door)
        if not isinstance(outcome, Delivered):
            break
    return outcome


def _sent(pagerduty: PagerDuty, event: Mapping[str, Any]) -> bytes:
    return json.dumps({"routing_key": pagerduty.routing_key, **event}).encode()


def events_of(message: Message) -> list[dict[str, Any]]:
    """Return the events of a message; none for what is neither an incident nor a test."""
    if message.kind == TEST:
        key = f"longwatch-test-{message.receiver}"
        payload = _payload(title_of(message), "longwatch", "info", message.at)
        return [_event("trigger", key, payload), _event("resolve", key)]
    return [
        _event(_ACTIONS[told.state], told.id, _payload_of(told))
        for told in message.incidents
        if told.state in _ACTIONS
    ]


def _event(action: str, key: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
    event: dict[str, Any] = {"event_action": action, "dedup_key": key, "client": "longwatch"}
    return event if payload is None else event | {"payload": dict(payload)}


def _payload_of(told: Told) -> dict[str, Any]:
    severity = _SEVERITIES.get(told.severity, "warning")
    details = {"class": told.rule, "custom_details": dict(told.fields)}
    return _payload(told.summary, told.camera, severity, told.at) | details


def _payload(summary: str, source: str, severity: str, at: str) -> dict[str, Any]:
    return {
        "summary": summary[:_LONGEST_SUMMARY],
        "source": source,
        "severity": severity,
        "timestamp": at,
    }
