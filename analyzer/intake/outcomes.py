"""The outcomes of log entries, and the messages to append for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from analyzer.intake.coverage import EntryOutcome
from analyzer.questions.answers import WindowAnswers
from storage.errors import Unreadable
from storage.log.dead_letters import build_dead_letter
from storage.log.log import LogEntry, LogMessage
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, Window
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS
from storage.records.wire import encode_dead_letter, encode_finding

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandledEntry:
    """A log entry with its outcome and its coverage claims."""

    entry: LogEntry
    outcome: EntryOutcome
    claims: Sequence[Claim]


def messages_of(handled: Sequence[HandledEntry]) -> list[LogMessage]:
    """Return all findings and dead letters, then all claims, grouped by topic.

    The claim that a window is analysed always follows its findings.
    """
    outcomes = [
        LogMessage(topic=each.outcome.topic, key=each.entry.key, value=value)
        for each in sorted(handled, key=lambda each: each.outcome.topic)
        for value in each.outcome.values
    ]
    claims = [
        LogMessage(topic=COVERAGE, key=each.entry.key, value=encode_claim(claim))
        for each in handled
        for claim in each.claims
    ]
    return outcomes + claims


def outcome_of(entry: LogEntry, answers: WindowAnswers) -> EntryOutcome:
    """Return the outcome of a window that went through a step.

    A window that overlaps the one before comes from a second process that writes the camera: it
    makes no claim, and its time that has no other claim is shed. A window that did not fit on the
    device is shed. A window with an unanswered question is corrupt.
    """
    window, failure = answers.window, answers.failure
    if answers.is_overlap:
        return EntryOutcome(topic=FINDINGS, values=[], state=CoverageState.SHED, window=None)
    if isinstance(failure, Unreadable):
        return dead_letter_outcome(entry, failure, window)
    state = CoverageState.CORRUPT if answers.unanswered else CoverageState.ANALYSED
    if failure is not None:
        logger.error("window not read", window=window.id, reason=str(failure))
        state = CoverageState.SHED
    values = [encode_finding(finding) for finding in answers.findings]
    return EntryOutcome(topic=FINDINGS, values=values, state=state, window=window)


def dead_letter_outcome(
    entry: LogEntry, error: Unreadable, window: Window | None = None
) -> EntryOutcome:
    """Return the outcome of an unreadable entry."""
    logger.warning("window set aside", camera=entry.key, reason=error.reason)
    return EntryOutcome(
        topic=DEAD_LETTERS,
        values=[encode_dead_letter(build_dead_letter(entry, error))],
        state=CoverageState.CORRUPT,
        window=window,
    )
