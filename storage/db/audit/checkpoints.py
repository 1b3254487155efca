"""What takes the place of entries that retention removed from the audit trail.

Entries are removed in runs of consecutive numbers, and each maximal run is one checkpoint:
neighbours merge, so that there are never more checkpoints than entries that are left, and one.
In practice an incident that stays open for long, or that is kept for longer than others,
separates two of them, and nothing else does.

The seal of each checkpoint is in the act that wrote it: see `storage.db.audit.trail.forget`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, delete, insert, or_, select

from storage.db import tables
from storage.db.audit.hash_chain import ChainAnchor, ChainCheckpoint
from storage.db.sql.paging import paginate

_AUDIT, _CHECKPOINTS = tables.audit, tables.checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointMerge:
    """Checkpoints to write (`act` is not set yet), and the first numbers of those they replace."""

    created: tuple[ChainCheckpoint, ...]
    replaced: tuple[int, ...]


def plan_merge(
    connection: Connection, numbers: Iterable[int], genesis: ChainAnchor
) -> CheckpointMerge:
    """Return the checkpoints for entries that are to be removed but are still there."""
    runs = _runs(numbers)
    neighbours = _neighbours(connection, runs)
    ranges = sorted([*runs, *((each.first, each.last) for each in neighbours)])
    joined = _join_runs(ranges)
    before = {each.first: each.before for each in neighbours}
    after = {each.last: each.after for each in neighbours}
    edges = {first - 1 for first, _ in joined if first not in before}
    edges |= {last for _, last in joined if last not in after}
    # A digest that is missing has been removed by hand: "" lets `audit verify` fail there.
    digests = {genesis.number: genesis.digest} | _digests(connection, edges)
    created = tuple(
        ChainCheckpoint(
            first=first,
            last=last,
            before=before[first] if first in before else digests.get(first - 1, ""),
            after=after[last] if last in after else digests.get(last, ""),
            act=0,
        )
        for first, last in joined
    )
    return CheckpointMerge(created=created, replaced=tuple(each.first for each in neighbours))


def write_checkpoints(connection: Connection, plan: CheckpointMerge, action: int) -> None:
    """Write checkpoints in the place of those that they replace."""
    for firsts in paginate(plan.replaced):
        connection.execute(delete(_CHECKPOINTS).where(_CHECKPOINTS.c.first.in_(firsts)))
    for page in paginate(plan.created):
        connection.execute(
            insert(_CHECKPOINTS), [asdict(replace(each, act=action)) for each in page]
        )


def last_removed_anchor(connection: Connection) -> ChainAnchor | None:
    """Return the last entry that was removed; None where none was."""
    query = select(_CHECKPOINTS).order_by(_CHECKPOINTS.c.first.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else ChainAnchor(number=row.last, digest=row.after)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    return _join_runs([(number, number) for number in sorted(numbers)])


def _join_runs(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans, in order, that follow each other without a gap."""
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return joined


def _neighbours(connection: Connection, runs: Iterable[tuple[int, int]]) -> list[ChainCheckpoint]:
    """Return the checkpoints next to runs, each once."""
    found = dict[int, ChainCheckpoint]()
    for page in paginate(runs):
        before = _CHECKPOINTS.c.last.in_([first - 1 for first, _ in page])
        after = _CHECKPOINTS.c.first.in_([last + 1 for _, last in page])
        for row in connection.execute(select(_CHECKPOINTS).where(or_(before, after))):
            found[row.first] = ChainCheckpoint(**row._asdict())
    return list(found.values())


def _digests(connection: Connection, numbers: Iterable[int]) -> dict[int, str]:
    found = dict[int, str]()
    for page in paginate(sorted(numbers)):
        query = select(_AUDIT.c.number, _AUDIT.c.digest).where(_AUDIT.c.number.in_(page))
        found |= {row.number: row.digest for row in connection.execute(query)}
    return found
