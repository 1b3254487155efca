"""What rules would have made of the findings that are stored, next to what there is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from alerts.rules import Rule, changes, expired, looks_at, sample_of
from storage.records import Finding, Incident


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An incident that would have opened, and one of the same rule that did: one may be missing."""

    would: Incident | None
    did: Incident | None

    @property
    def told(self) -> str:
        """Say how the two compare."""
        if self.would is None:
            return "would not"
        return "would, too" if self.did is not None else "would be new"

    @property
    def either(self) -> Incident:
        """Return the one that would have opened, or else the one that did."""
        found = self.would or self.did
        if found is None:
            raise ValueError("one of the two has to be there")
        return found


def fired(rules: Sequence[Rule], findings: Iterable[Finding]) -> list[Incident]:
    """Return the incidents that findings, in order of time, would have opened; oldest first."""
    latest: dict[tuple[str, int], Incident] = {}
    opened: dict[object, Incident] = {}
    heard: dict[str, datetime] = {}
    for finding in findings:
        sample = sample_of(finding)
        heard[sample.camera] = sample.at
        for n, rule in enumerate(rules):
            if looks_at(rule, sample):
                place = (sample.camera, n)
                for after in changes(rule, latest.get(place), sample):
                    latest[place] = opened[after.id] = after
    for (camera, n), incident in latest.items():
        for after in expired(rules[n], incident, heard[camera]):
            opened[after.id] = after
    found = [incident for incident in opened.values() if incident.opened_at is not None]
    return sorted(found, key=_begin)


def compare(would: Sequence[Incident], did: Sequence[Incident]) -> list[Compared]:
    """Pair incidents of the same rule and camera that were open at the same time; oldest first."""
    left = [incident for incident in did if incident.opened_at is not None]
    pairs = []
    for incident in would:
        pair = next((other for other in left if _meet(incident, other)), None)
        if pair is not None:
            left.remove(pair)
        pairs.append(Compared(would=incident, did=pair))
    pairs += [Compared(would=None, did=incident) for incident in left]
    return sorted(pairs, key=lambda pair: _begin(pair.either))


def _meet(one: Incident, other: Incident) -> bool:
    if (one.camera, one.rule) != (other.camera, other.rule):
        return False
    return not (_over_before(one, other) or _over_before(other, one))


def _over_before(one: Incident, other: Incident) -> bool:
    return one.closed_at is not None and one.closed_at < other.first_seen_at


def _begin(incident: Incident) -> datetime:
    return incident.opened_at or incident.first_seen_at
