"""What is asked of a database while something runs, and how much of it each answer reads."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, event, text

GROWING_TABLES = (
    "audit",
    "coverage",
    "deliveries",
    "delivery_incidents",
    "evidence",
    "findings",
    "groups",
    "incidents",
    "notices",
)
"""Tables that get rows as long as a camera runs."""
FEW_ROWS = 1000
"""A table, or a partial index, of fewer rows may be read as a whole."""
_PROGRESS_STEPS = 50
_VERBS = ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")


@dataclass(slots=True)
class Statement:
    """A statement, the values it had when it did most, and what it did then.

    `steps` are those of SQLite's machine, for each set of values; 0 elsewhere.
    """

    text: str
    values: Any
    steps: int = 0

    def describe(self) -> str:
        return f"{self.text}\n  with {str(self.values)[:300]}"


@dataclass(slots=True)
class RecordedStatements:
    """The statements that were heard, by their text but for the lengths of lists."""

    by_text: dict[str, Statement] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Statement]:
        return iter(list(self.by_text.values()))

    def record(self, sql: str, values: Any, steps: int) -> None:
        name = re.sub(r"\((\?|%\(\w+\)s(::\w+)?)(, (\?|%\(\w+\)s(::\w+)?))*\)", "(...)", sql)
        known = self.by_text.get(name)
        if known is None or known.steps < steps:
            self.by_text[name] = Statement(text=sql, values=values, steps=steps)


@contextmanager
def record_statements(engine: Engine) -> Iterator[RecordedStatements]:
    """Hear every statement as long as the block runs, and count the steps of SQLite's machine."""
    recorded, steps = RecordedStatements(), [0]

    def step() -> int:
        steps[0] += _PROGRESS_STEPS
        return 0

    def before(*given: Any) -> None:
        steps[0] = 0
        if given[0].dialect.name == "sqlite":
            given[1].connection.set_progress_handler(step, _PROGRESS_STEPS)

    def after(_: Any, cursor: Any, sql: str, values: Any, __: Any, many: bool) -> None:
        if sql.lstrip().startswith(_VERBS) and values is not None:
            sets = len(values) if many else 1
            recorded.record(sql, _first(values), steps[0] // max(sets, 1))

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    try:
        yield recorded
    finally:
        event.remove(engine, "before_cursor_execute", before)
        event.remove(engine, "after_cursor_execute", after)


def _first(values: Any) -> Any:
    """Return the first set of values, where there may be several."""
    while isinstance(values, list):
        values = values[0] if values and not isinstance(values[0], str) else tuple(values)
    return values


def full_scans(connection: Connection, statement: Statement) -> list[str]:
    """Return the steps of a plan that read all of a growing table; explain on a full database."""
    if connection.dialect.name == "postgresql":
        return list(_scans_of_postgres(connection, statement))
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement.text}", statement.values)
    plan = [row[-1] for row in rows.all()]
    return [line for line in plan if _reads_all(connection, line, plan, statement.text)]


def _reads_all(connection: Connection, line: str, plan: Sequence[str], sql: str) -> bool:
    words = re.match(r"SCAN (?:TABLE )?(\w+)(?: USING (?:COVERING )?INDEX (\w+))?", line)
    if words is None or (table := _table(words[1])) is None:
        return False
    is_sorted = any(re.match("USE TEMP B-TREE FOR (ORDER|GROUP)", each) for each in plan)
    if " LIMIT " in sql and " WHERE " not in sql.partition(f"FROM {table}")[2] and not is_sorted:
        return False
    return _rows_behind(connection, table, words[2]) > FEW_ROWS


def _rows_behind(connection: Connection, table: str, index: str | None) -> int:
    """Return how many rows a scan of a table, or of one of its indexes, reads."""
    where = ""
    if index is not None:
        query = text("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = :name")
        made = connection.execute(query, {"name": index}).scalar() or ""
        where = made.partition(" WHERE ")[2]
    return _count(connection, table, where)


def _count(connection: Connection, table: str, where: str) -> int:
    rows = connection.exec_driver_sql(
        f"SELECT count(*) FROM {table} {f'WHERE {where}' if where else ''}".replace("%", "%%")
    )
    return int(rows.scalar_one())


def _table(name: str) -> str | None:
    """Return the growing table behind the name in a plan: SQLAlchemy numbers its aliases."""
    return next((each for each in GROWING_TABLES if re.fullmatch(rf"{each}(_\d+)?", name)), None)


def _scans_of_postgres(connection: Connection, statement: Statement) -> Iterator[str]:
    explain = f"EXPLAIN (FORMAT JSON) {statement.text}"
    found = connection.exec_driver_sql(explain, statement.values).scalar_one()
    plan = found if isinstance(found, list) else json.loads(found)
    yield from _scans_under(connection, plan[0]["Plan"], is_limited=False)


def _scans_under(
    connection: Connection, node: dict[str, Any], *, is_limited: bool
) -> Iterator[str]:
    kind, table = node["Node Type"], node.get("Relation Name")
    is_limited = kind == "Limit" or (
        is_limited and kind not in ("Sort", "Aggregate", "HashAggregate")
    )
    reads_all = kind == "Seq Scan" or (
        kind in ("Index Scan", "Index Only Scan")
        and "Index Cond" not in node
        and not (is_limited and "Filter" not in node)
    )
    if reads_all and table in GROWING_TABLES and _rows_of_index(connection, table, node) > FEW_ROWS:
        index, kept = node.get("Index Name", ""), node.get("Filter", "")
        yield f"{kind} of {table} {index} {kept}"
    for each in node.get("Plans", []):
        yield from _scans_under(connection, each, is_limited=is_limited)


def _rows_of_index(connection: Connection, table: str, node: dict[str, Any]) -> int:
    query = text(
        "SELECT pg_get_expr(indpred, indrelid) FROM pg_index JOIN pg_class ON oid = indexrelid"
        " WHERE relname = :name"
    )
    where = connection.execute(query, {"name": node.get("Index Name", "")}).scalar() or ""
    return _count(connection, table, where)
