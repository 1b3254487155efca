"""A sealed chain: numbered entries in a table, each with a digest of all entries up to it.

An entry is canonical JSON with its own number. Its digest is SHA-256 of the digest before it and
the entry, so that none can be changed, removed or inserted without breaking all that follow.

A checkpoint takes the place of entries that were removed on purpose: it has the digest before
the first of them and that of the last.

An anchor is the number of an entry and its digest, written NUMBER:DIGEST. Who keeps one
elsewhere can show later that the chain up to it is still the same. Without one, a chain that
somebody cut off or wrote anew from some entry on verifies: the chain itself cannot tell.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Table, select


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainAnchor:
    """An entry of a chain by its number, from 1 on, and its digest; number 0 is before all."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEntry:
    """An entry of a chain and its digest."""

    number: int
    entry: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainCheckpoint:
    """Entries `first` to `last`, which were removed: the digests before and after them.

    `act` is the number of the act that removed them, and that holds the `seal` of this.
    """

    first: int
    last: int
    before: str
    after: str
    act: int

    @property
    def seal(self) -> str:
        """The digest of what the checkpoint says."""
        text = f"{self.first}\n{self.last}\n{self.before}\n{self.after}"
        return sha256(text.encode()).hexdigest()


def genesis(name: str) -> ChainAnchor:
    """Return the anchor before the first entry of a chain."""
    return ChainAnchor(number=0, digest=sha256(name.encode()).hexdigest())


def chain_digest(digest: str, entry: str) -> str:
    """Return the digest of an entry behind the digest before it."""
    return sha256(f"{digest}\n{entry}".encode()).hexdigest()


def last_anchor(connection: Connection, table: Table) -> ChainAnchor | None:
    """Return the last entry of a table; None where it has none."""
    query = select(table.c.number, table.c.digest).order_by(table.c.number.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else ChainAnchor(number=row.number, digest=row.digest)


def chain_entries(after: ChainAnchor, entries: Iterable[Mapping[str, Any]]) -> Iterator[ChainEntry]:
    """Yield the links that make the fields of entries the next ones of a chain."""
    digest = after.digest
    for number, fields in enumerate(entries, start=after.number + 1):
        entry = canonical_json({"number": number} | dict(fields))
        digest = chain_digest(digest, entry)
        yield ChainEntry(number=number, entry=entry, digest=digest)


def canonical_json(fields: Mapping[str, Any]) -> str:
    """Write fields as JSON in the one way that digests are taken of."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class ChainVerifier:
    """Verify a chain step by step; `held` is the last entry up to which it holds.

    `lost` is the checkpoint that has taken the place of the anchor, so that nothing can be said
    about the anchor.
    """

    def __init__(self, begin: ChainAnchor, anchor: ChainAnchor | None) -> None:
        self.verified = begin
        self.covering_checkpoint: ChainCheckpoint | None = None
        self._anchor = anchor

    def step(self, entry: ChainEntry | ChainCheckpoint) -> str | None:
        """Go over the next link or checkpoint; return what is wrong with it."""
        if isinstance(entry, ChainEntry):
            first, last, digest = entry.number, entry.number, entry.digest
            follows = digest == chain_digest(self.verified.digest, entry.entry)
            problem = f"entry {last} was changed, or one before it"
        else:
            first, last, digest = entry.first, entry.last, entry.after
            follows = entry.before == self.verified.digest
            problem = (
                f"the checkpoint of entries {first} to {last} does not follow the one before it"
            )
        if first != self.verified.number + 1 or last < first:
            missing = first > self.verified.number
            return (
                f"entry {self.verified.number + 1} is missing" if missing else f"{first} is twice"
            )
        if not follows:
            return problem
        self.verified = ChainAnchor(number=last, digest=digest)
        return self._check_anchor(entry, first)

    def finish(self) -> str | None:
        """Return what is missing at the end: entries up to the anchor."""
        last_verified = self.verified.number
        if self._anchor is None or last_verified >= self._anchor.number:
            return None
        number = self._anchor.number
        return f"the entries after {last_verified} are gone: {number} were verified before"

    def _check_anchor(self, entry: ChainEntry | ChainCheckpoint, first: int) -> str | None:
        """Hold the anchor against where it is, if it is here."""
        if self._anchor is None or not first <= self._anchor.number <= self.verified.number:
            return None
        if self._anchor.number < self.verified.number and isinstance(entry, ChainCheckpoint):
            self.covering_checkpoint = entry
            return None
        if self._anchor.digest != self.verified.digest:
            return f"entry {self._anchor.number} is not the one that was verified before"
        return None
