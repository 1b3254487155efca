"""What became of an entry of the log, and what is written because of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from analyzer.answers import WindowAnswers
from analyzer.coverage import Outcome
from storage.claims import Claim, encode_claim
from storage.dead import dead_of
from storage.errors import Unreadable
from storage.log import COVERAGE, DEAD, FINDINGS, Entry, Message
from storage.records import CoverageState, Window
from storage.wire import encode_dead, encode_finding

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """An entry, what it turned into, and what is claimed because of it."""

    entry: Entry
    outcome: Outcome
    claims: Sequence[Claim]


def messages_of(handled: Sequence[Handled]) -> list[Message]:
    """Return all findings and dead letters, and after them all claims: as few runs of a topic.

    A claim that a window was analysed never comes before its findings.
    """
    outcomes = [
        Message(topic=each.outcome.topic, key=each.entry.key, value=value)
        for each in sorted(handled, key=lambda each: each.outcome.topic)
        for value in each.outcome.values
    ]
    claims = [
        Message(topic=COVERAGE, key=each.entry.key, value=encode_claim(claim))
        for each in handled
        for claim in each.claims
    ]
    return outcomes + claims


def outcome_of(entry: Entry, answers: WindowAnswers) -> Outcome:
    """Return what a step made of a window.

    One that overlaps the one before it was written by another process beside that one's: it
    claims nothing, and what of it nobody else accounts for is shed. One that the device had no
    room for is shed. One with a question that got no answer is not
    analysed, whatever else was answered.
    """
    window, failure = answers.window, answers.failure
    if answers.is_overlap:
        return Outcome(topic=FINDINGS, values=[], state=CoverageState.SHED, window=None)
    if isinstance(failure, Unreadable):
        return set_aside(entry, failure, window)
    state = CoverageState.CORRUPT if answers.unanswered else CoverageState.ANALYSED
    if failure is not None:
        logger.error("window not read", window=window.id, reason=str(failure))
        state = CoverageState.SHED
    values = [encode_finding(finding) for finding in answers.findings]
    return Outcome(topic=FINDINGS, values=values, state=state, window=window)


def set_aside(entry: Entry, error: Unreadable, window: Window | None = None) -> Outcome:
    """Return that an entry is a dead letter."""
    logger.warning("window set aside", camera=entry.key, reason=error.reason)
    return Outcome(
        topic=DEAD,
        values=[encode_dead(dead_of(entry, error))],
        state=CoverageState.CORRUPT,
        window=window,
    )
