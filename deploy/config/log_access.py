"""The rights that each role needs on a broker."""

from storage.log.access import LogAccess
from storage.records.topics import (
    COVERAGE,
    DEAD_LETTERS,
    FINDINGS,
    INCIDENTS,
    REPLIES,
    REQUESTS,
    WINDOWS,
)

INGEST = LogAccess(writes=frozenset({WINDOWS, COVERAGE}))
ANALYZE = LogAccess(
    reads=frozenset({WINDOWS, FINDINGS, COVERAGE, INCIDENTS, REQUESTS}),
    writes=frozenset({FINDINGS, COVERAGE, DEAD_LETTERS, REPLIES}),
    groups=frozenset({"analyzer"}),
)
ALERT = LogAccess(
    reads=frozenset({WINDOWS, FINDINGS, COVERAGE}),
    writes=frozenset({INCIDENTS, DEAD_LETTERS}),
)
ALL = INGEST | ANALYZE | ALERT
