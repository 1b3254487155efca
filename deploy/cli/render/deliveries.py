"""A delivery as JSON."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from storage.records.deliveries import Delivery


def delivery_fields(delivery: "Delivery", incidents: Iterable[UUID]) -> dict[str, Any]:
    """Return a delivery and the ids of its incidents."""
    return {
        "id": str(delivery.id),
        "receiver": delivery.receiver,
        "number": delivery.number,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "tried_at": delivery.tried_at and delivery.tried_at.isoformat(),
        "next_at": delivery.next_at.isoformat(),
        "incidents": [str(id) for id in incidents],
        "reason": delivery.reason,
    }
