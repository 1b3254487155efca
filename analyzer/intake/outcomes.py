"""What became of an entry of the log, and what is written because of it."""

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
    """An entry, what it turned into, and what is claimed because of it."""

    entry: LogEntry
    outcome: EntryOutcome
    claims: Sequence[Claim]


def messages_of(handled: Sequence[HandledEntry]) -> list[LogMessage]:
    """Return all findings and dead letters, and after them all claims: as few runs of a topic.

    A claim that a window was analysed never comes before its findings.
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
    """Return what a step made of a window.

    One that overlaps the one before it was written by another process beside that one's: it
    claims nothing, and what of it nobody else accounts for is shed. One that the device had no
    room for is shed. One with a question that got no answer is not
    analysed, whatever else was answered.
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
    """Return that an entry is a dead letter."""
    logger.warning("window set aside", camera=entry.key, reason=error.reason)
    return EntryOutcome(
        topic=DEAD_LETTERS,
        values=[encode_dead_letter(build_dead_letter(entry, error))],
        state=CoverageState.CORRUPT,
        window=window,
    )
