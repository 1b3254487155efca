"""Rows of the tables, back as records."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_

from storage.db import tables
from storage.records.deliveries import Delivery, DeliveryState
from storage.records.records import (
    EvidenceMoment,
    EvidenceStill,
    Finding,
    Incident,
    IncidentState,
    YesNoAnswer,
)

_AFTER_HEX = "g"
_SORTS_HEX_DIGITS = """
SELECT bool_and(one <= one || two AND one || two < one || %(after)s)
FROM unnest(string_to_array('0 1 2 3 4 5 6 7 8 9 a b c d e f', ' ')) AS ones(one),
    unnest(string_to_array('0 1 2 3 4 5 6 7 8 9 a b c d e f -', ' ')) AS twos(two)
"""
DELIVERY_COLUMNS = [
    column for column in tables.deliveries.c if column.name not in ("body", "serial")
]


def rows_by_id_prefix(
    connection: Connection, query: Select[Any], id: ColumnElement[str], prefix: str
) -> Sequence[Row[Any]]:
    """Return the rows of a query whose uuid begins so, two at most: by its index, if that can be.

    In a collation that takes two digits for one letter, or for a number, they are no range.
    """
    has_prefix = id.startswith(prefix, autoescape=True)
    if _is_hex_collated(connection):
        has_prefix = and_(has_prefix, id >= prefix, id < prefix + _AFTER_HEX)
    return connection.execute(query.where(has_prefix).limit(2)).all()


def _is_hex_collated(connection: Connection) -> bool:
    """Return whether a uuid stands between its beginnings and what follows them: not in Danish."""
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.exec_driver_sql(_SORTS_HEX_DIGITS, {"after": _AFTER_HEX}).scalar_one())


def finding_from_row(row: Row[Any]) -> Finding:
    """Return a finding from its row."""
    fields = row._asdict()
    del fields["id"], fields["incidents"]
    return Finding(**fields | {"answer": YesNoAnswer(row.answer)})


def incident_from_row(row: Row[Any]) -> Incident:
    """Return an incident from its row."""
    converted = {
        "id": UUID(row.id),
        "state": IncidentState(row.state),
        "evidence": tuple(row.evidence),
    }
    return Incident(**row._asdict() | converted)


def delivery_from_row(row: Row[Any]) -> Delivery:
    """Return a delivery from its row."""
    converted = {
        "id": UUID(row.id),
        "group_id": UUID(row.group_id),
        "state": DeliveryState(row.state),
    }
    return Delivery(**row._asdict() | converted)


def still_from_row(row: Row[Any]) -> EvidenceStill:
    """Return what became of stills from its row."""
    return EvidenceStill(
        moment=EvidenceMoment(row.moment),
        window_id=row.window_id,
        digest=row.digest,
        missing=row.missing,
    )
