"""The stored findings, read in order of time or by their ids, and how many incidents need each.

A finding counts the closed incidents that it is evidence of, and is kept while there are any.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from sqlalchemy import Connection, Engine, bindparam, select, update

from storage import tables
from storage.chain import pages
from storage.database import READING, trouble_named
from storage.records import Finding
from storage.rows import finding_of
from storage.text_order import by_code_point

_AT_ONCE = 1000


def findings_by_id(connection: Connection, ids: Collection[str]) -> dict[str, Finding]:
    """Return the findings with these ids, in an open transaction; the others are left out."""
    table, wanted = tables.findings, sorted(set(ids))
    found = dict[str, Finding]()
    for page in pages(wanted, _AT_ONCE):
        query = select(table).where(table.c.id.in_(page))
        found |= {row.id: finding_of(row) for row in connection.execute(query)}
    return found


def keep_findings(connection: Connection, evidence: Iterable[Collection[str]]) -> None:
    """Keep the findings behind incidents that have just closed: the evidence of each, as ids."""
    _count(connection, evidence, 1)


def release_findings(connection: Connection, evidence: Iterable[Collection[str]]) -> None:
    """Keep the findings behind closed incidents no longer on their account."""
    _count(connection, evidence, -1)


def _count(connection: Connection, evidence: Iterable[Collection[str]], change: int) -> None:
    table, counted = tables.findings, Counter(id for ids in evidence for id in set(ids))
    rows = [{"of_id": id, "change": change * times} for id, times in sorted(counted.items())]
    if rows:
        changing = update(table).where(table.c.id == bindparam("of_id"))
        changing = changing.values(incidents=table.c.incidents + bindparam("change"))
        connection.execute(changing, rows)


class FindingStore:
    """The findings for whoever reads many of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(**{READING: True})

    def between(self, since: datetime | None, until: datetime | None) -> Iterator[Finding]:
        """Yield the findings that end from `since` up to `until`, in order of their ends.

        They are read page by page, so that a long look holds up no writer.
        """
        table = tables.findings
        query = select(table).order_by(table.c.end, by_code_point(table.c.id)).limit(_AT_ONCE)
        if until is not None:
            query = query.where(table.c.end < until)
        page = query if since is None else query.where(table.c.end >= since)
        while True:
            with trouble_named(self._engine), self._engine.begin() as connection:
                rows = connection.execute(page).all()
            yield from map(finding_of, rows)
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1]
            later = by_code_point(table.c.id) > last.id
            after = (table.c.end > last.end) | ((table.c.end == last.end) & later)
            page = query.where(after)
