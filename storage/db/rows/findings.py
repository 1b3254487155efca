"""The stored findings, read in order of time or by their ids, and how many incidents need each.

A finding counts the closed incidents that it is evidence of, and is kept while there are any.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from sqlalchemy import Connection, Engine, bindparam, select, update

from storage.db import tables
from storage.db.database import READ_ONLY_OPTION, translate_errors
from storage.db.rows.row_mapping import finding_from_row
from storage.db.sql.collation import by_code_point
from storage.db.sql.paging import paginate
from storage.records.records import Finding

_PAGE_SIZE = 1000


def findings_by_id(connection: Connection, ids: Collection[str]) -> dict[str, Finding]:
    """Return the findings with these ids, in an open transaction; the others are left out."""
    table, wanted = tables.findings, sorted(set(ids))
    found = dict[str, Finding]()
    for page in paginate(wanted, _PAGE_SIZE):
        query = select(table).where(table.c.id.in_(page))
        found |= {row.id: finding_from_row(row) for row in connection.execute(query)}
    return found


def reference_findings(connection: Connection, evidence: Iterable[Collection[str]]) -> None:
    """Keep the findings behind incidents that have just closed: the evidence of each, as ids."""
    _change_reference_counts(connection, evidence, 1)


def release_findings(connection: Connection, evidence: Iterable[Collection[str]]) -> None:
    """Keep the findings behind closed incidents no longer on their account."""
    _change_reference_counts(connection, evidence, -1)


def _change_reference_counts(
    connection: Connection, evidence: Iterable[Collection[str]], change: int
) -> None:
    table, references = tables.findings, Counter(id for ids in evidence for id in set(ids))
    rows = [{"of_id": id, "change": change * count} for id, count in sorted(references.items())]
    if rows:
        statement = update(table).where(table.c.id == bindparam("of_id"))
        statement = statement.values(incidents=table.c.incidents + bindparam("change"))
        connection.execute(statement, rows)


class FindingStore:
    """The findings for whoever reads many of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(**{READ_ONLY_OPTION: True})

    def between(self, since: datetime | None, until: datetime | None) -> Iterator[Finding]:
        """Yield the findings that end from `since` up to `until`, in order of their ends.

        They are read page by page, so that a long look holds up no writer.
        """
        table = tables.findings
        query = select(table).order_by(table.c.end, by_code_point(table.c.id)).limit(_PAGE_SIZE)
        if until is not None:
            query = query.where(table.c.end < until)
        page = query if since is None else query.where(table.c.end >= since)
        while True:
            with translate_errors(self._engine), self._engine.begin() as connection:
                rows = connection.execute(page).all()
            yield from map(finding_from_row, rows)
            if len(rows) < _PAGE_SIZE:
                return
            last = rows[-1]
            later = by_code_point(table.c.id) > last.id
            after = (table.c.end > last.end) | ((table.c.end == last.end) & later)
            page = query.where(after)
