"""Rows and items, a page at a time."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select

PAGE_SIZE = 500
T = TypeVar("T")


def stream_rows(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    """Yield the rows of a query, a page at a time in memory."""
    with connection.execute(query.execution_options(yield_per=PAGE_SIZE)) as found:
        yield from found


def paginate(items: Iterable[T], size: int = PAGE_SIZE) -> Iterator[list[T]]:
    """Yield items in lists of at most `size`."""
    left = iter(items)
    while page := list(islice(left, size)):
        yield page
