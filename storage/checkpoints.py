"""What takes the place of entries that retention removed from the audit trail.

Entries are removed in runs of consecutive numbers, and each maximal run is one checkpoint:
neighbours merge, so that there are never more checkpoints than entries that are left, and one.
In practice an incident that stays open for long, or that is kept for longer than others,
separates two of them, and nothing else does.

The seal of each checkpoint is in the act that wrote it: see `storage.audit.forget`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, delete, insert, or_, select

from storage import tables
from storage.chain import Anchor, Checkpoint, pages

_AUDIT, _CHECKPOINTS = tables.audit, tables.checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Checkpoints to write (`act` is not set yet), and the first numbers of those they replace."""

    made: tuple[Checkpoint, ...]
    replaced: tuple[int, ...]


def merge(connection: Connection, numbers: Iterable[int], begin: Anchor) -> Merge:
    """Return the checkpoints for entries that are to be removed but are still there."""
    runs = _runs(numbers)
    neighbours = _neighbours(connection, runs)
    pieces = sorted([*runs, *((each.first, each.last) for each in neighbours)])
    joined = _joined(pieces)
    before = {each.first: each.before for each in neighbours}
    after = {each.last: each.after for each in neighbours}
    edges = {first - 1 for first, _ in joined if first not in before}
    edges |= {last for _, last in joined if last not in after}
    # A digest that is missing has been removed by hand: "" lets `audit verify` fail there.
    digests = {begin.number: begin.digest} | _digests(connection, edges)
    made = tuple(
        Checkpoint(
            first=first,
            last=last,
            before=before[first] if first in before else digests.get(first - 1, ""),
            after=after[last] if last in after else digests.get(last, ""),
            act=0,
        )
        for first, last in joined
    )
    return Merge(made=made, replaced=tuple(each.first for each in neighbours))


def write(connection: Connection, merged: Merge, act: int) -> None:
    """Write checkpoints in the place of those that they replace."""
    for firsts in pages(merged.replaced):
        connection.execute(delete(_CHECKPOINTS).where(_CHECKPOINTS.c.first.in_(firsts)))
    for page in pages(merged.made):
        connection.execute(insert(_CHECKPOINTS), [asdict(replace(each, act=act)) for each in page])


def last_of(connection: Connection) -> Anchor | None:
    """Return the last entry that was removed; None where none was."""
    query = select(_CHECKPOINTS).order_by(_CHECKPOINTS.c.first.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else Anchor(number=row.last, digest=row.after)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    return _joined([(number, number) for number in sorted(numbers)])


def _joined(pieces: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans, in order, that follow each other without a gap."""
    joined: list[tuple[int, int]] = []
    for first, last in pieces:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return joined


def _neighbours(connection: Connection, runs: Iterable[tuple[int, int]]) -> list[Checkpoint]:
    """Return the checkpoints next to runs, each once."""
    found = dict[int, Checkpoint]()
    for page in pages(runs):
        before = _CHECKPOINTS.c.last.in_([first - 1 for first, _ in page])
        after = _CHECKPOINTS.c.first.in_([last + 1 for _, last in page])
        for row in connection.execute(select(_CHECKPOINTS).where(or_(before, after))):
            found[row.first] = Checkpoint(**row._asdict())
    return list(found.values())


def _digests(connection: Connection, numbers: Iterable[int]) -> dict[int, str]:
    found = dict[int, str]()
    for page in pages(sorted(numbers)):
        query = select(_AUDIT.c.number, _AUDIT.c.digest).where(_AUDIT.c.number.in_(page))
        found |= {row.number: row.digest for row in connection.execute(query)}
    return found
