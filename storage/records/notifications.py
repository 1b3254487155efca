"""Notifications of incidents, the groups they are sent in, and the receivers' token buckets."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid5

from storage.records.records import Incident

_GROUP_NAMESPACE = UUID("0b8e4c0e-2f0e-5d59-8f6a-6b0f1f1c6a52")
DIGEST = "digest"
"""The label of the group that the digests of a receiver belong to."""


class ChangeKind(StrEnum):
    """The changes of an incident that receivers are notified of."""

    OPENED = "opened"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class NotificationState(StrEnum):
    """The life of a notification; a later one replaced a `SUPERSEDED` one before it was sent."""

    WAITING = "waiting"
    SENT = "told"
    MUTED = "muted"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One change of an incident for one receiver; `mute_reason` says what mutes it.

    It `is_current` until a later one replaces it or its group is done with it.
    """

    incident_id: UUID
    revision: int
    receiver: str
    group_id: UUID
    kind: ChangeKind
    state: NotificationState
    mute_reason: str | None
    delivery_id: UUID | None
    is_current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationGroup:
    """Notifications that a receiver gets in one message: `number` so far, the last at `told_at`.

    It is due at `due_at`; without one, at the next notification. `camera` is that label, empty if
    it has none. `weight` is that of its worst waiting or muted incident
    (`storage.db.rows.due_groups.WEIGHTS`), 0 without one.
    """

    id: UUID
    receiver: str
    labels: Mapping[str, str]
    number: int
    due_at: datetime | None
    told_at: datetime | None
    camera: str = ""
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedIncident:
    """An incident in a group, its newest notification, and the fate of the earlier ones.

    `was_firing_notified`: the receiver got a message that it fires; `was_muted`: some notification
    was muted; `is_in_flight`: the delivery of the newest one still waits.
    """

    incident: Incident
    notification: Notification
    was_firing_notified: bool
    was_muted: bool
    is_in_flight: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """The tokens of a receiver at an instant: each message takes one.

    Below zero, a critical message borrowed one, the last time at `borrowed_at`.
    """

    tokens: float
    at: datetime
    borrowed_at: datetime | None = None


def group_id(receiver: str, labels: Mapping[str, str]) -> UUID:
    """Return the id of a group: the same for the same receiver and labels."""
    fields = {"receiver": receiver, "labels": dict(sorted(labels.items()))}
    return uuid5(_GROUP_NAMESPACE, json.dumps(fields, separators=(",", ":")))
