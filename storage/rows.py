"""Rows of the tables, back as records."""

from typing import Any
from uuid import UUID

from sqlalchemy import Row

from storage import tables
from storage.records import Answer, Delivery, DeliveryState, Finding, Incident, IncidentState

DELIVERY = [column for column in tables.deliveries.c if column.name != "body"]


def finding_of(row: Row[Any]) -> Finding:
    """Return a finding from its row."""
    fields = row._asdict()
    del fields["id"]
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
        "incident_id": UUID(row.incident_id),
        "state": DeliveryState(row.state),
    }
    return Delivery(**row._asdict() | changed)
