"""Replay rules over stored findings, and compare the incidents with the recorded ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from alerts.rules.replay import replay
from alerts.rules.rule import Rule, sample_from_finding
from storage.records.records import Finding, Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayComparison:
    """A replayed incident and the recorded one of the same rule; one may be missing."""

    replayed: Incident | None
    recorded: Incident | None

    @property
    def verdict(self) -> str:
        """Return how the two compare."""
        if self.replayed is None:
            return "would not"
        return "would, too" if self.recorded is not None else "would be new"

    @property
    def incident(self) -> Incident:
        """Return the replayed incident, or else the recorded one."""
        found = self.replayed or self.recorded
        if found is None:
            raise ValueError("a comparison needs an incident")
        return found


def replay_rules(rules: Sequence[Rule], findings: Iterable[Finding]) -> list[Incident]:
    """Return the incidents that findings, in order of time, would have opened; oldest first."""
    samples = [sample_from_finding(finding) for finding in findings]
    newest = {each.id: each for rule in rules for each in replay(rule, samples)}
    return sorted((each for each in newest.values() if each.opened_at is not None), key=_start_of)


def compare_incidents(
    replayed: Sequence[Incident], recorded: Sequence[Incident]
) -> list[ReplayComparison]:
    """Pair incidents of the same rule and camera that were open at the same time; oldest first."""
    left = [incident for incident in recorded if incident.opened_at is not None]
    pairs = []
    for incident in replayed:
        pair = next((other for other in left if _overlap(incident, other)), None)
        if pair is not None:
            left.remove(pair)
        pairs.append(ReplayComparison(replayed=incident, recorded=pair))
    pairs += [ReplayComparison(replayed=None, recorded=incident) for incident in left]
    return sorted(pairs, key=lambda pair: _start_of(pair.incident))


def _overlap(replayed: Incident, recorded: Incident) -> bool:
    if (replayed.camera, replayed.rule) != (recorded.camera, recorded.rule):
        return False
    return not (_ended_before(replayed, recorded) or _ended_before(recorded, replayed))


def _ended_before(earlier: Incident, later: Incident) -> bool:
    return earlier.closed_at is not None and earlier.closed_at < later.first_seen_at


def _start_of(incident: Incident) -> datetime:
    return incident.opened_at or incident.first_seen_at
