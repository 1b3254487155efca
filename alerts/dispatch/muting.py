"""What mutes alerts: silences, maintenance windows, and alerts that inhibit others.

Matchers are Alertmanager's (its documentation, "Matchers"): `=`, `!=`, `=~` and `!~` on the
labels camera, rule and severity. Regular expressions are RE2's, so matching takes linear time, and
they match a whole label.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, get_args
from uuid import UUID

import re2
from pydantic import BaseModel, ConfigDict

from alerts.hours import ActiveHours
from alerts.names import IncidentLabel, Pattern
from alerts.rules.rule import covers_camera
from storage.db.silences import SilenceRow
from storage.records.records import Incident

LABELS = get_args(IncidentLabel)
MAX_MATCHER_VALUE = 256
"""Characters of the value of a matcher."""
_MATCHER_PATTERN = re.compile(r"\s*([A-Za-z_]+)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """Compare one label of an incident with a value or glob, or with a regular expression."""

    label: str
    op: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Matcher":
        """Parse `camera=dock` or `rule=~"bag-.*"`; raises ValueError with what to write."""
        match = _MATCHER_PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text[:MAX_MATCHER_VALUE]!r}: write it as camera=dock or rule=~bag-.*"
            )
        label, op, value = match.groups()
        if label not in LABELS:
            raise ValueError(f"no label is called {label!r}: choose one of {', '.join(LABELS)}")
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if len(value) > MAX_MATCHER_VALUE:
            raise ValueError(f"{label}: at most {MAX_MATCHER_VALUE} characters")
        if op.endswith("~"):
            _compiled(value)
        return cls(label=label, op=op, value=value)

    @property
    def text(self) -> str:
        """Return the text of the matcher."""
        return f"{self.label}{self.op}{self.value}"

    @property
    def is_name(self) -> bool:
        """Return whether it matches a single value."""
        return self.op == "=" and not set(self.value) & set("*?[")

    def matches(self, label: str) -> bool:
        """Return whether it matches the value of its label."""
        if self.op in ("=", "!="):
            return fnmatchcase(label, self.value) == (self.op == "=")
        fits = _compiled(self.value).fullmatch(label) is not None
        return fits == (self.op == "=~")


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 2**20
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else error.args[0]
        raise ValueError(f"{pattern!r} is no regular expression of RE2: {reason}") from None


def is_match(matchers: Iterable[Matcher], incident: Incident) -> bool:
    """Return whether all matchers match an incident; no matchers match every incident."""
    return all(each.matches(str(getattr(incident, each.label))) for each in matchers)


@dataclass(frozen=True, slots=True, kw_only=True)
class MuteReason:
    """Why an incident is muted, and until when if that is known."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Mute the incidents that all matchers match, from `start` up to `end`."""

    id: UUID
    matchers: tuple[Matcher, ...]
    start: datetime
    end: datetime
    who: str
    comment: str = ""

    def mutes(self, incident: Incident, at: datetime) -> bool:
        """Return whether an incident is muted at an instant."""
        return self.start <= at < self.end and is_match(self.matchers, incident)


def parse_matchers(texts: Sequence[str]) -> tuple[Matcher, ...]:
    """Parse the matchers of a silence; raises ValueError if they would mute everything.

    As in Alertmanager, one of them at least must not match the empty string.
    """
    matchers = tuple(map(Matcher.parse, texts))
    if not any(each.op in ("=", "=~") and not each.matches("") for each in matchers):
        raise ValueError("it would mute everything: name a camera, a rule or a severity by =")
    return matchers


def silence_from_row(row: SilenceRow) -> Silence:
    """Return a silence from its row."""
    return Silence(
        id=row.id,
        matchers=tuple(map(Matcher.parse, row.matchers)),
        start=row.start,
        end=row.end,
        who=row.who,
        comment=row.comment,
    )


class Maintenance(BaseModel):
    """Hours in which some cameras are muted: names and globs; none means all."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    cameras: tuple[Pattern, ...] = ()
    active: ActiveHours

    def mutes(self, incident: Incident, at: datetime) -> bool:
        """Return whether an incident is muted at an instant."""
        return covers_camera(self.cameras, incident.camera) and self.active.is_active_at(at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhibition:
    """While a rule of `source` fires, incidents that match `target` are muted.

    Both have the same labels in `equal`. A source mutes no source.
    """

    source: frozenset[str]
    target: tuple[Matcher, ...] = ()
    equal: tuple[str, ...] = ("camera",)

    def mutes(self, incident: Incident, source: Incident) -> bool:
        """Return whether a firing source mutes an incident."""
        if source.rule not in self.source or incident.rule in self.source:
            return False
        has_equal_labels = all(
            getattr(incident, label) == getattr(source, label) for label in self.equal
        )
        return has_equal_labels and is_match(self.target, incident)


@dataclass(frozen=True, slots=True, kw_only=True)
class Muter:
    """All that mutes incidents; `firing` are the firing sources of inhibitions."""

    silences: Sequence[Silence] = ()
    maintenance: Sequence[Maintenance] = ()
    inhibitions: Sequence[Inhibition] = ()
    firing: Sequence[Incident] = ()

    def reason_for(self, incident: Incident, at: datetime) -> MuteReason | None:
        """Return why an incident is muted, None if it is not."""
        silences = [each for each in self.silences if each.mutes(incident, at)]
        if silences:
            last = max(silences, key=lambda each: each.end)
            return MuteReason(reason=f"silence {str(last.id)[:8]} by {last.who}", until=last.end)
        for window in self.maintenance:
            if window.mutes(incident, at):
                return MuteReason(reason=f"maintenance {window.active.text[0]}")
        for inhibition in self.inhibitions:
            for source in self.firing:
                if inhibition.mutes(incident, source):
                    reason = f"inhibited by {source.rule} on {source.camera}"
                    return MuteReason(reason=f"{reason} ({str(source.id)[:8]})")
        return None

    def reasons_for(self, incidents: Iterable[Incident], at: datetime) -> Mapping[UUID, MuteReason]:
        """Return the reasons of the muted incidents, by id."""
        reasons = {each.id: self.reason_for(each, at) for each in incidents}
        return {id: reason for id, reason in reasons.items() if reason is not None}
