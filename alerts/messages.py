"""What a delivery's body says: how it is written, and read for receivers that take it otherwise.

Version 2 of the body, JSON, described by `schemas/message.v2.json`: `type` is one of
incidents.firing (some of them fire), incidents.resolved (all are over), health (all are about
the watching itself), heartbeat and test; `data` holds the group and its incidents as they stand.
Reading takes what is needed and lets all else pass.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alerts.tickets import Origin
from storage.routing import Group

VERSION = 2
FIRING, RESOLVED = "incidents.firing", "incidents.resolved"
HEALTH, HEARTBEAT, TEST = "health", "heartbeat", "test"
MAX_BODY_BYTES = 20_000
"""A body is smaller than this (Standard Webhooks, "Payload size")."""
_DIGITS = 8
NOWHERE = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An incident as a message tells of it; `fields` is all of it."""

    id: str
    camera: str
    rule: str
    severity: str
    state: str
    at: str
    summary: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as it reads; `truncated` incidents more belong to it than it holds."""

    kind: str
    at: str
    receiver: str
    group: Mapping[str, str]
    truncated: int
    incidents: tuple[Told, ...]
    site: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def read_message(body: bytes) -> Message:
    """Read a body; ValueError where it is no message of this version."""
    try:
        fields = json.loads(body)
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']}, not {VERSION}")
        data = fields["data"]
        return Message(
            kind=str(fields["type"]),
            at=str(fields["timestamp"]),
            receiver=str(data.get("receiver", "")),
            group={str(label): str(value) for label, value in data.get("group", {}).items()},
            truncated=int(data.get("truncated", 0)),
            incidents=tuple(map(_told, data.get("incidents", []))),
            site=str(data.get("site", "")),
            labels={str(label): str(value) for label, value in data.get("labels", {}).items()},
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no message: {type(error).__name__}") from None


def write_message(
    kind: str,
    group: Group,
    incidents: Sequence[Mapping[str, Any]],
    now: datetime,
    origin: Origin = NOWHERE,
) -> bytes:
    """Write what a group's receiver is told, as many of the incidents as fit, from the first on."""
    told = list[Mapping[str, Any]]()
    size = len(_body(kind, now, group.receiver, group.labels, origin=origin))
    for fields in incidents:
        size += len(_json(fields)) + len(",")
        if size >= MAX_BODY_BYTES - _DIGITS:
            break
        told.append(fields)
    left_out = len(incidents) - len(told)
    labels = group.labels
    return _body(kind, now, group.receiver, labels, told, truncated=left_out, origin=origin)


def trial_body(receiver: str, now: datetime, origin: Origin = NOWHERE) -> bytes:
    """Write the message of `longwatch receivers test`."""
    return _body(TEST, now, receiver, {}, origin=origin)


def title_of(message: Message) -> str:
    """Return one line: what it is about, and how much of it there is."""
    kind = message.kind.removeprefix("incidents.")
    if kind == TEST:
        return "[test] longwatch reaches this receiver"
    if kind == HEARTBEAT:
        return "[heartbeat] longwatch watches"
    count = len(message.incidents) + message.truncated
    if count == 1 and message.incidents:
        return f"[{kind}] {message.incidents[0].summary}"
    group = ", ".join(f"{label} {value}" for label, value in message.group.items())
    return f"[{kind}] {count} incidents" + (f": {group}" if group else "")


def text_of(message: Message) -> str:
    """Return a line for every incident."""
    if message.kind == TEST:
        return f"Sent by `longwatch receivers test {message.receiver}` at {message.at}."
    lines = [_line(incident) for incident in message.incidents]
    more = [f"and {message.truncated} more"] if message.truncated else []
    return "\n".join([*lines, *more]) or f"{message.kind} at {message.at}"


def _body(
    kind: str,
    now: datetime,
    receiver: str,
    labels: Mapping[str, str],
    incidents: Sequence[Mapping[str, Any]] = (),
    *,
    truncated: int = 0,
    origin: Origin = NOWHERE,
) -> bytes:
    data = {
        **origin.fields,
        "receiver": receiver,
        "group": dict(labels),
        "truncated": truncated,
        "incidents": incidents,
    }
    return _json({"version": VERSION, "type": kind, "timestamp": now.isoformat(), "data": data})


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _line(incident: Told) -> str:
    return f"{incident.summary}: {incident.severity}, {incident.state}, {incident.at}"


def _told(fields: Mapping[str, Any]) -> Told:
    camera, rule = str(fields["camera"]), str(fields["rule"])
    moments = ("closed_at", "opened_at", "first_seen_at")
    return Told(
        id=str(fields["id"]),
        camera=camera,
        rule=rule,
        severity=str(fields["severity"]),
        state=str(fields["state"]),
        at=str(next((fields[name] for name in moments if fields.get(name)), "")),
        summary=str(fields.get("summary") or f"{rule} on {camera}"),
        fields=fields,
    )
