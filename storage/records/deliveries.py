"""Deliveries of messages and the state of their receivers; the standard library alone."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class DeliveryState(StrEnum):
    """The life of a delivery.

    `SUPERSEDED` was replaced by a later one before it went, `EXHAUSTED` was tried to the end of
    its schedule, `REFUSED_MARK` was not wanted, `ORPHANED` lost its receiver from the settings.
    """

    WAITING = "waiting"
    DELIVERED = "delivered"
    SUPERSEDED = "superseded"
    EXHAUSTED = "exhausted"
    REFUSED = "refused"
    ORPHANED = "orphaned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One part of a message on its way to one receiver; the id is the `webhook-id`.

    The id is a random UUID, drawn once when the delivery is written: a retry and a replay repeat
    it, no other database has it. `number` counts the messages of the group and `part` the `parts`
    of a message, both from 1 on. A lower `priority` goes first. `reason` says why the last try
    failed, or why it ended undelivered.
    """

    id: UUID
    group_id: UUID
    number: int
    receiver: str
    state: DeliveryState
    attempts: int
    next_at: datetime
    reason: str | None = None
    tried_at: datetime | None = None
    part: int = 1
    parts: int = 1
    priority: int = 1


class ReceiverState(StrEnum):
    """How a receiver stands: `FAILING` is posted to less often, `DISABLED` not at all."""

    ACTIVE = "active"
    FAILING = "failing"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverStatus:
    """How a receiver stands, why, and since when."""

    name: str
    state: ReceiverState
    reason: str
    since: datetime
