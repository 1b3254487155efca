"""What receivers are told: one event when an incident opens, one when it is resolved.

Version 1 of the body, JSON: `version`, `type`, `timestamp` (when it happened, in the time of
the camera) and `data`, the whole incident as it stands then. A receiver that was down when an
incident opened may hear of its end alone, so it should go by `data`.
"""

import json
from uuid import UUID, uuid5

from storage.records import Delivery, DeliveryState, Incident, IncidentState
from storage.wire import incident_fields

VERSION = 1


def event_type(before: Incident | None, after: Incident) -> str | None:
    """Return `incident.opened` or `incident.resolved`; None for changes nobody is told of."""
    if after.state is IncidentState.RESOLVED:
        return "incident.resolved"
    was_open = before is not None and before.state is IncidentState.OPEN
    return "incident.opened" if after.state is IncidentState.OPEN and not was_open else None


def body(kind: str, incident: Incident) -> bytes:
    """Write the event about an incident, the same bytes at every replay."""
    happened = incident.closed_at or incident.opened_at or incident.first_seen_at
    event = {
        "version": VERSION,
        "type": kind,
        "timestamp": happened.isoformat(),
        "data": incident_fields(incident),
    }
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def delivery(incident: Incident, receiver: str) -> Delivery:
    """Return the delivery of this revision to a receiver, due at once."""
    return Delivery(
        id=delivery_id(incident, receiver),
        incident_id=incident.id,
        revision=incident.revision,
        receiver=receiver,
        state=DeliveryState.WAITING,
        attempts=0,
        next_at=incident.closed_at or incident.opened_at or incident.first_seen_at,
    )


def delivery_id(incident: Incident, receiver: str) -> UUID:
    """Return the `webhook-id`: the same for the same incident, revision and receiver."""
    return uuid5(incident.id, f"{incident.revision}/{receiver}")
