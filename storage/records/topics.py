"""The names of the topics: what kind of record each entry of a log is."""

WINDOWS = "windows"
FINDINGS = "findings"
INCIDENTS = "incidents"
COVERAGE = "coverage"
DEAD_LETTERS = "dead"
REQUESTS = "requests"
REPLIES = "replies"
