"""Rows of the tables, back as records."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_

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

_AFTER_HEX = "g"
DELIVERY = [column for column in tables.deliveries.c if column.name not in ("body", "serial")]


def begins_with(id: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Return the condition that a uuid begins so: a range of its index, whatever the collation."""
    within = and_(id >= prefix, id < prefix + _AFTER_HEX)
    return and_(within, id.startswith(prefix, autoescape=True))


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
