"""Rows of the tables, back as records."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row

from storage import tables
from storage.records import (
    Answer,
    Delivery,
    DeliveryState,
    Finding,
    Incident,
    IncidentState,
    Kept,
    Moment,
)

DELIVERY = [column for column in tables.deliveries.c if column.name not in ("body", "serial")]


def finding_of(row: Row[Any]) -> Finding:
    """Return a finding from its row."""
    fields = row._asdict()
    del fields["id"], fields["incidents"]
    return Finding(**fields | {"answer": Answer(row.answer)})


def incident_of(row: Row[Any]) -> Incident:
    """Return an incident from its row."""
    changed = {
        "id": UUID(row.id),
        "state": IncidentState(row.state),
        "evidence": tuple(row.evidence),
    }
    return Incident(**row._asdict() | changed)


def delivery_of(row: Row[Any]) -> Delivery:
    """Return a delivery from its row."""
    changed = {
        "id": UUID(row.id),
        "group_id": UUID(row.group_id),
        "state": DeliveryState(row.state),
    }
    return Delivery(**row._asdict() | changed)


def kept_of(row: Row[Any]) -> Kept:
    """Return what became of stills from its row."""
    return Kept(
        moment=Moment(row.moment),
        window_id=row.window_id,
        digest=row.digest,
        missing=row.missing,
    )
