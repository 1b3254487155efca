"""How many rows and bytes the tables of a database have; nothing that is large is read for it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from statistics import fmean

from sqlalchemy import Connection, Integer, Row, column, func, select, table, text

_MAX_COUNTED_BYTES = 2**20
"""Bytes of a table on a server up to which its rows are counted."""
_MAX_COUNTED_ROWS = 100_000
"""Rows of a table in a file up to which they are counted."""
_SAMPLE_PAGES = 200
"""Pages of a tree of SQLite that are read: what has no more is exact."""
_ON_SERVER = text("""
SELECT c.relname AS name, greatest(c.reltuples, s.n_live_tup, 0)::bigint AS estimate,
    pg_total_relation_size(c.oid) AS size,
    pg_relation_size(c.oid) <= :counted AND has_table_privilege(c.oid, 'SELECT') AS is_small
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid)
    AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
""")
_CAN_MEASURE = text(
    "SELECT count(*) FROM pragma_compile_options WHERE compile_options = 'ENABLE_DBSTAT_VTAB'"
)
_BTREES = text("SELECT name, tbl_name AS of FROM sqlite_schema WHERE rootpage > 0")
_PAGES = text("SELECT path, pagetype, ncell FROM dbstat WHERE name = :name LIMIT :sample")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """A table: its rows, and its bytes with those of its indexes; None where nobody knows."""

    name: str
    rows: int
    size: int | None
    rows_estimated: bool = False
    size_estimated: bool = False


def pragma(connection: Connection, name: str) -> int:
    """Return a number that SQLite knows of a file."""
    number: int = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
    return number


def table_sizes(connection: Connection) -> list[TableSize]:
    """Return the tables, largest first."""
    on_server = connection.dialect.name == "postgresql"
    found = _on_server(connection) if on_server else _in_file(connection)
    return sorted(found, key=lambda each: (-(each.size or 0), -each.rows, each.name))


def _on_server(connection: Connection) -> Iterator[TableSize]:
    for row in connection.execute(_ON_SERVER, {"counted": _MAX_COUNTED_BYTES}).all():
        rows = _count(connection, row.name) if row.is_small else row.estimate
        estimated = not row.is_small
        yield TableSize(name=row.name, rows=rows, size=row.size, rows_estimated=estimated)


def _in_file(connection: Connection) -> Iterator[TableSize]:
    trees = connection.execute(_BTREES).all()
    pages = _pages_of(connection, trees)
    size = pragma(connection, "page_size")
    for name in sorted({tree.of for tree in trees} - {"sqlite_sequence"}):
        row_range = _rowid_range(connection, name)
        rows = _count(connection, name) if row_range <= _MAX_COUNTED_ROWS else row_range
        known = pages.get(name)
        yield TableSize(
            name=name,
            rows=rows,
            size=None if known is None else known.pages * size,
            rows_estimated=row_range > _MAX_COUNTED_ROWS,
            size_estimated=known is not None and known.is_estimate,
        )


def _rowid_range(connection: Connection, name: str) -> int:
    """Return the most rows there may be, by the first and the last: the oldest are deleted."""
    rowid = table(name, column("rowid", Integer)).c.rowid
    # Together, the two would be looked for in all rows.
    ends = (select(end(rowid)).scalar_subquery() for end in (func.min, func.max))
    first, last = connection.execute(select(*ends)).one()
    return 0 if last is None else last - first + 1


def _count(connection: Connection, name: str) -> int:
    return connection.execute(select(func.count()).select_from(table(name))).scalar_one()


@dataclass(frozen=True, slots=True, kw_only=True)
class _PageCount:
    pages: int = 0
    is_estimate: bool = False

    def add(self, other: "_PageCount", scale: float) -> "_PageCount":
        """Return both; an estimate is scaled."""
        more = round(other.pages * scale) if other.is_estimate else other.pages
        return _PageCount(
            pages=self.pages + more, is_estimate=self.is_estimate or other.is_estimate
        )


def _pages_of(
    connection: Connection, trees: Sequence[Row[tuple[str, str]]]
) -> dict[str, _PageCount]:
    """Return the pages of each table with its indexes, by a part of each tree.

    What is estimated is scaled, so that all pages together are those that the file uses.
    """
    if not connection.execute(_CAN_MEASURE).scalar():
        return {}
    measured = [(tree.of, _btree_pages(connection, tree.name)) for tree in trees]
    measured.append(("sqlite_schema", _btree_pages(connection, "sqlite_schema")))
    exact, estimated = (
        sum(each.pages for _, each in measured if each.is_estimate is kind)
        for kind in (False, True)
    )
    remaining = pragma(connection, "page_count") - pragma(connection, "freelist_count") - exact
    scale = remaining / estimated if estimated else 1.0
    found: dict[str, _PageCount] = defaultdict(_PageCount)
    for name, each in measured:
        found[name] = found[name].add(each, scale)
    return found


def _btree_pages(connection: Connection, name: str) -> _PageCount:
    """Return the pages of a tree; of a large one by how many each page of a level leads to."""
    sample = connection.execute(_PAGES, {"name": name, "sample": _SAMPLE_PAGES}).all()
    if len(sample) < _SAMPLE_PAGES:
        return _PageCount(pages=len(sample))
    fanouts: dict[int, list[int]] = defaultdict(list)
    for row in sample:
        if row.pagetype == "internal":
            fanouts[row.path.count("/")].append(row.ncell + 1)
    leaves = prod(fmean(each) for each in fanouts.values())
    overflow = sum(row.pagetype == "overflow" for row in sample)
    overflow_ratio = overflow / max(1, sum(row.pagetype == "leaf" for row in sample))
    return _PageCount(pages=round(leaves * (1 + overflow_ratio)), is_estimate=True)
