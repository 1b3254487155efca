"""Distinct values of a column that leads an index: stepped from value to value.

`SELECT DISTINCT` reads the whole index, however few values there are.
"""

from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, func, select


def distinct_values_query(column: ColumnElement[Any]) -> Select[Any]:
    """Return the query for the values of a column but for NULL, in `value`."""
    values = distinct_values_cte(column, "stepped")
    return select(values.c.value).where(values.c.value.is_not(None))


def distinct_values_cte(column: ColumnElement[Any], name: str) -> CTE:
    """Return the CTE of the values of a column, in `value`; its last one may be NULL."""
    values = select(func.min(column).label("value")).cte(name, recursive=True)
    following = select(func.min(column)).where(column > values.c.value)
    step = select(following.correlate(values).scalar_subquery())
    return values.union_all(step.where(values.c.value.is_not(None)))
