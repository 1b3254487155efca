"""The body of a delivery: written for webhooks, parsed for other kinds of receivers.

Version 3 of the body is JSON, described by `schemas/message.v3.json`. `type` is one of
incidents.firing (some fire), incidents.resolved (all are over), incidents.digest (of many groups),
health (all are of health rules), heartbeat and test; `data` has the group and its incidents. A
message that is too large is split into `parts`, each with other incidents: none is left out. An
incident that is too large is shortened, longest texts first; it keeps its id, camera, rule,
severity and state. The parser ignores unknown fields.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from storage.records.notifications import NotificationGroup
from storage.records.records import Incident

VERSION = 3
FIRING, RESOLVED = "incidents.firing", "incidents.resolved"
INCIDENTS_DIGEST = "incidents.digest"
HEALTH, HEARTBEAT, TEST = "health", "heartbeat", "test"
MAX_BODY_BYTES = 20_000
"""The limit of a body (Standard Webhooks, "Payload size")."""
_ENVELOPE_BYTES = 6_000
"""The limit of a body without its incidents."""
_WIDEST_NUMBER = 999_999
_ID = "id"
_REQUIRED = (_ID, "camera", "rule", "severity", "state")
_MIN_TEXT = 64
"""No text is cut below this many characters, so that a timestamp stays whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOrigin:
    """The longwatch that sends a message: its site, and the labels in its settings."""

    site: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields that are set, as in a message."""
        known = {"site": self.site, "labels": dict(self.labels)}
        return {name: value for name, value in known.items() if value}


NO_ORIGIN = MessageOrigin()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageIncident:
    """An incident in a message; `fields` are all of its fields."""

    id: str
    camera: str
    rule: str
    severity: str
    state: str
    at: str
    summary: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationMessage:
    """A parsed part of a message; `more` incidents wait and follow later."""

    kind: str
    at: str
    receiver: str
    group: Mapping[str, str]
    incidents: tuple[MessageIncident, ...]
    part: int = 1
    parts: int = 1
    more: int | None = None
    site: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePart:
    """A written part of a message: its number of `parts`, and the ids of its incidents."""

    body: bytes
    incidents: tuple[str, ...]
    number: int
    parts: int


def parse_message(body: bytes) -> NotificationMessage:
    """Parse a body; raises ValueError if it is no message of this version."""
    try:
        fields = json.loads(body)
        if fields["version"] != VERSION:
            raise ValueError(f"version {fields['version']}, not {VERSION}")
        data = fields["data"]
        more = data.get("more")
        return NotificationMessage(
            kind=str(fields["type"]),
            at=str(fields["timestamp"]),
            receiver=str(data.get("receiver", "")),
            group={str(label): str(value) for label, value in data.get("group", {}).items()},
            incidents=tuple(map(_parse_incident, data.get("incidents", []))),
            part=int(data.get("part", 1)),
            parts=int(data.get("parts", 1)),
            more=None if more is None else int(more),
            site=str(data.get("site", "")),
            labels={str(label): str(value) for label, value in data.get("labels", {}).items()},
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no message: {type(error).__name__}") from None


def build_message(
    kind: str,
    group: NotificationGroup,
    incidents: Sequence[Mapping[str, Any]],
    now: datetime,
    *,
    more: int | None = None,
    origin: MessageOrigin = NO_ORIGIN,
) -> list[MessagePart]:
    """Return the message of a group, in as many parts as it takes.

    `incidents` are their fields, in order; `more` of them wait and follow later.
    """
    labels = _shorten_to_fit(group.labels, _ENVELOPE_BYTES // 2)
    data = {**origin.fields, "receiver": _truncate(group.receiver, 256), "group": labels}
    if more is not None:
        data["more"] = more
    max_bytes = (
        MAX_BODY_BYTES - len(_body(kind, now, data, part=_WIDEST_NUMBER, parts=_WIDEST_NUMBER)) - 1
    )
    chunks = list(
        _split_to_fit(
            [_shorten_to_fit(fields, max_bytes - 1, _REQUIRED) for fields in incidents], max_bytes
        )
    )
    return [
        MessagePart(
            body=_body(kind, now, data, chunk, part=number, parts=len(chunks)),
            incidents=tuple(str(fields["id"]) for fields in chunk),
            number=number,
            parts=len(chunks),
        )
        for number, chunk in enumerate(chunks, 1)
    ]


def digest_entry(incident: Incident) -> dict[str, Any]:
    """Return the short form of an incident in a digest; `at` is its latest change."""
    at = incident.closed_at or incident.opened_at or incident.first_seen_at
    return {
        "id": str(incident.id),
        "camera": incident.camera,
        "rule": incident.rule,
        "severity": incident.severity,
        "state": incident.state,
        "at": at.isoformat(),
    }


def build_test_body(receiver: str, now: datetime, origin: MessageOrigin = NO_ORIGIN) -> bytes:
    """Write the message of `longwatch receivers test`."""
    return _body(TEST, now, {**origin.fields, "receiver": receiver, "group": {}})


def message_title(message: NotificationMessage) -> str:
    """Return a title: the kind, the incident or their number, and the group."""
    kind = message.kind.removeprefix("incidents.")
    if kind == TEST:
        return "[test] longwatch reaches this receiver"
    if kind == HEARTBEAT:
        return "[heartbeat] longwatch watches"
    numbered = f" {message.part}/{message.parts}" if message.parts > 1 else ""
    if len(message.incidents) == 1 and not numbered:
        return f"[{kind}] {message.incidents[0].summary}"
    labels = {} if message.kind == INCIDENTS_DIGEST else message.group
    group = ", ".join(f"{label} {value}" for label, value in labels.items())
    return f"[{kind}{numbered}] {len(message.incidents)} incidents" + (
        f": {group}" if group else ""
    )


def message_text(message: NotificationMessage) -> str:
    """Return a line for each incident, with its id."""
    if message.kind == TEST:
        return f"Sent by `longwatch receivers test {message.receiver}` at {message.at}."
    lines = [_incident_line(incident) for incident in message.incidents]
    return "\n".join(lines) or f"{message.kind} at {message.at}"


def _body(
    kind: str,
    now: datetime,
    data: Mapping[str, Any],
    incidents: Sequence[Mapping[str, Any]] = (),
    *,
    part: int = 1,
    parts: int = 1,
) -> bytes:
    numbered = {**data, "part": part, "parts": parts, "incidents": incidents}
    return encode_compact(
        {"version": VERSION, "type": kind, "timestamp": now.isoformat(), "data": numbered}
    )


def _split_to_fit(
    incidents: Sequence[Mapping[str, Any]], max_bytes: int
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield chunks of less than `max_bytes`, each of one incident at least; one for none."""
    chunk = list[Mapping[str, Any]]()
    size = 0
    for fields in incidents:
        length = len(encode_compact(fields)) + len(",")
        if chunk and size + length > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(fields)
        size += length
    yield chunk


def _shorten_to_fit(
    fields: Mapping[str, Any], max_bytes: int, required: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Return fields whose JSON has at most `max_bytes`.

    All texts and lists are cut to the same length; then the longest fields that are not required
    are dropped.
    """
    if len(encode_compact(fields)) <= max_bytes:
        return fields
    longest = max_bytes
    while len(encode_compact(fields)) > max_bytes and longest > _MIN_TEXT:
        longest //= 2
        fields = {
            name: value if name == _ID and _ID in required else _truncate(value, longest)
            for name, value in fields.items()
        }
    sizes = {name: len(encode_compact({name: value})) for name, value in fields.items()}
    for name in sorted(fields.keys() - set(required), key=sizes.__getitem__, reverse=True):
        if len(encode_compact(fields)) <= max_bytes:
            break
        fields = {other: value for other, value in fields.items() if other != name}
    return fields


def _truncate(value: Any, longest: int) -> Any:
    """Return a JSON value with texts of at most `longest` characters, and fewer items."""
    match value:
        case str() if len(value) > longest:
            return value[: longest - 1] + "…"
        case list() | tuple():
            return [_truncate(each, longest) for each in value[: max(1, longest // 16)]]
        case dict():
            return {name: _truncate(each, longest) for name, each in value.items()}
        case _:
            return value


def encode_compact(fields: Mapping[str, Any]) -> bytes:
    """Return fields as compact JSON in UTF-8; `?` replaces a lone surrogate."""
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _incident_line(incident: MessageIncident) -> str:
    text = f"{incident.summary}: {incident.severity}, {incident.state}, {incident.at}"
    return f"{text}, {incident.id}"


def _parse_incident(fields: Mapping[str, Any]) -> MessageIncident:
    camera, rule = str(fields["camera"]), str(fields["rule"])
    moments = ("closed_at", "opened_at", "first_seen_at", "at")
    return MessageIncident(
        id=str(fields["id"]),
        camera=camera,
        rule=rule,
        severity=str(fields["severity"]),
        state=str(fields["state"]),
        at=str(next((fields[name] for name in moments if fields.get(name)), "")),
        summary=str(fields.get("summary") or f"{rule} on {camera}"),
        fields=fields,
    )
