"""What mutes alerts: silences, maintenance windows, and alerts that inhibit others.

Matchers are Alertmanager's (its documentation, "Matchers"): `=`, `!=`, `=~` and `!~` on the
labels camera, rule and severity. Regular expressions are RE2's, so that none takes longer than
its length times that of a label, and they match all of a label or nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from uuid import UUID

import re2

from alerts.hours import Hours
from storage.db.silences import SilenceRow
from storage.records.records import Incident

LABELS = ("camera", "rule", "severity")
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
        """Read `camera=dock` or `rule=~"bag-.*"`; raise ValueError with what to write."""
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
        """Return how it is written."""
        return f"{self.label}{self.op}{self.value}"

    @property
    def is_name(self) -> bool:
        """Return whether it matches one value alone."""
        return self.op == "=" and not set(self.value) & set("*?[")

    def matches(self, label: str) -> bool:
        """Tell whether the value of its label fits."""
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
    """Tell whether all matchers fit an incident; none at all fit every one."""
    return all(each.matches(str(getattr(incident, each.label))) for each in matchers)


@dataclass(frozen=True, slots=True, kw_only=True)
class MuteReason:
    """Why nobody is told of an incident, and until when where that is known."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Mute what every matcher fits, from `start` until just before `end`."""

    id: UUID
    matchers: tuple[Matcher, ...]
    start: datetime
    end: datetime
    who: str
    comment: str = ""

    def mutes(self, incident: Incident, at: datetime) -> bool:
        """Tell whether nobody is told of an incident at an instant."""
        return self.start <= at < self.end and is_match(self.matchers, incident)


def parse_matchers(texts: Sequence[str]) -> tuple[Matcher, ...]:
    """Read the matchers of a silence; raise ValueError where it would mute everything.

    As in Alertmanager, one of them at least must not match the empty string.
    """
    matchers = tuple(map(Matcher.parse, texts))
    if not any(each.op in ("=", "=~") and not each.matches("") for each in matchers):
        raise ValueError("it would mute everything: name a camera, a rule or a severity by =")
    return matchers


def silence_from_row(row: SilenceRow) -> Silence:
    """Return a silence as it was stored."""
    return Silence(
        id=row.id,
        matchers=tuple(map(Matcher.parse, row.matchers)),
        start=row.start,
        end=row.end,
        who=row.who,
        comment=row.comment,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Hours in which nobody is told of some cameras, which are names and globs; none: all."""

    cameras: tuple[str, ...]
    active: Hours

    def mutes(self, incident: Incident, at: datetime) -> bool:
        """Tell whether nobody is told of an incident at an instant."""
        has_camera = not self.cameras or any(fnmatchcase(incident.camera, p) for p in self.cameras)
        return has_camera and self.active.is_active_at(at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhibition:
    """An alert of one of the rules in `source` mutes those that the matchers of `target` fit.

    Both have the labels in `equal` in common. What is a source mutes no source, itself least.
    """

    source: frozenset[str]
    target: tuple[Matcher, ...] = ()
    equal: tuple[str, ...] = ("camera",)

    def mutes(self, incident: Incident, source: Incident) -> bool:
        """Tell whether a source that fires mutes an incident."""
        if source.rule not in self.source or incident.rule in self.source:
            return False
        has_equal_labels = all(
            getattr(incident, label) == getattr(source, label) for label in self.equal
        )
        return has_equal_labels and is_match(self.target, incident)


@dataclass(frozen=True, slots=True, kw_only=True)
class Muter:
    """All that mutes at an instant; `firing` are the sources of inhibition that fire."""

    silences: Sequence[Silence] = ()
    maintenance: Sequence[Maintenance] = ()
    inhibitions: Sequence[Inhibition] = ()
    firing: Sequence[Incident] = ()

    def reason_for(self, incident: Incident, at: datetime) -> MuteReason | None:
        """Say why nobody is told of an incident, if so."""
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
        """Return those of the incidents that are muted, by id."""
        reasons = {each.id: self.reason_for(each, at) for each in incidents}
        return {id: reason for id, reason in reasons.items() if reason is not None}
