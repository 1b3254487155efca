"""What became of an entry of the log, and what is written because of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.coverage import Outcome
from storage.claims import Claim, encode_claim
from storage.log import COVERAGE, Entry, Message


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
