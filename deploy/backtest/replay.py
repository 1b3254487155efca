"""What rules would have made of the findings that are stored, next to what there is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from alerts.rules.replay import replay
from alerts.rules.rule import Rule, sample_from_finding
from storage.records.records import Finding, Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayComparison:
    """An incident that would have opened, and one of the same rule that did: one may be missing."""

    replayed: Incident | None
    recorded: Incident | None

    @property
    def verdict(self) -> str:
        """Say how the two compare."""
        if self.replayed is None:
            return "would not"
        return "would, too" if self.recorded is not None else "would be new"

    @property
    def incident(self) -> Incident:
        """Return the one that would have opened, or else the one that did."""
        found = self.replayed or self.recorded
        if found is None:
            raise ValueError("one of the two has to be there")
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


def _overlap(one: Incident, other: Incident) -> bool:
    if (one.camera, one.rule) != (other.camera, other.rule):
        return False
    return not (_ended_before(one, other) or _ended_before(other, one))


def _ended_before(one: Incident, other: Incident) -> bool:
    return one.closed_at is not None and one.closed_at < other.first_seen_at


def _start_of(incident: Incident) -> datetime:
    return incident.opened_at or incident.first_seen_at
