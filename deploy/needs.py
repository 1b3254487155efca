"""What each role does with the log: the rights that it needs on a broker."""

from storage.log import COVERAGE, DEAD, FINDINGS, INCIDENTS, REPLIES, REQUESTS, WINDOWS
from storage.needs import Needs

INGEST = Needs(writes=frozenset({WINDOWS, COVERAGE}))
ANALYZE = Needs(
    reads=frozenset({WINDOWS, FINDINGS, COVERAGE, INCIDENTS, REQUESTS}),
    writes=frozenset({FINDINGS, COVERAGE, DEAD, REPLIES}),
    groups=frozenset({"analyzer"}),
)
ALERT = Needs(
    reads=frozenset({WINDOWS, FINDINGS, COVERAGE}),
    writes=frozenset({INCIDENTS, DEAD}),
)
ALL = INGEST | ANALYZE | ALERT
