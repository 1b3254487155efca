"""What a person or a ticket system needs to know of an incident, beside the incident itself.

The question as it was asked, the score and margin of the answer, since when, the camera's title,
sentences from templates, why a camera is down, and a link. Everything is text from outside: it
is cut to one line of at most MAX_TEXT characters, and an incident to less than MAX_BYTES as JSON.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alerts.health import PREFIX
from alerts.rules import Rule
from alerts.templates import fill
from storage.duration import format_duration
from storage.findings import findings_by_id
from storage.ledger import Ledger
from storage.records import Answer, Finding, Incident
from storage.text import one_line
from storage.wire import incident_fields

MAX_TEXT = 500
MAX_BYTES = 6_000
_SHORT = 60
_TEXTS = ("description", "second_ask", "closed_because", "reason", "ask", "camera_title", "summary")
"""The free texts of an incident, the one that is missed least first."""

FieldsOf = Callable[[Ledger, Sequence[Incident]], list[dict[str, Any]]]
"""`fields_of(ledger, incidents)` returns the JSON object of each incident, in order."""

HEALTH_SENTENCES = {
    "camera_down": "no video",
    "stream_broken": "the stream gives no pictures",
    "overloaded": "the machine is too slow for its cameras",
    "moved": "the camera was turned",
    "frozen": "the picture is frozen",
    "covered": "the camera is covered or dark",
    "unwatched": "nobody watches this camera",
    "undelivered": "messages are not delivered",
    "role_down": "it cannot run as it is configured",
    "log_unreachable": "the log does not answer",
    "clock_ahead": "its clock is ahead of ours",
    "clock_behind": "our own clock seems to be behind",
}
_WITHOUT = (
    "{camera_title}: {ask} yes at {first_seen_at}, but no yes to {second_ask} within {within}"
)
_DESCRIPTION = "Rule {rule} on camera {camera}, severity {severity}, {state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which longwatch a message comes from: the name of its site, and labels of the operator."""

    site: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """Return what of it is set, as a message has it."""
        known = {"site": self.site, "labels": dict(self.labels)}
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The templates of a rule; an empty one stands for the default sentence."""

    summary: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question as it is asked now, and the version of it that findings carry."""

    ask: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Basis:
    """The findings behind an incident: the one that opened it, and the latest."""

    opening: Finding
    latest: Finding

    @property
    def is_yes(self) -> bool:
        """Return whether the model said yes; a rule may also look for a low score."""
        return self.opening.answer is Answer.YES


@dataclass(frozen=True, slots=True, kw_only=True)
class Describer:
    """Describe incidents in full; without settings as far as they are known from storage."""

    rules: Sequence[Rule] = ()
    wordings: Mapping[str, Wording] = field(default_factory=dict)
    questions: Mapping[str, Asked] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""
    origin: Origin = field(default_factory=Origin)

    def fields_of(self, ledger: Ledger, incidents: Sequence[Incident]) -> list[dict[str, Any]]:
        """Return the JSON object of each incident, in order, each below MAX_BYTES."""
        ids = {id for incident in incidents for id in incident.evidence}
        findings = findings_by_id(ledger.connection, ids)
        return [fitted(incident_fields(each) | self.facts(each, findings)) for each in incidents]

    def facts(self, incident: Incident, findings: Mapping[str, Finding]) -> dict[str, Any]:
        """Return what is known beside the incident's own fields; `findings` by their ids."""
        rule = self._rule(incident)
        basis = _basis(incident, rule, findings)
        known = _answers(incident, rule, basis) | self._words(incident, rule, findings)
        if title := self.titles.get(incident.camera):
            known["camera_title"] = one_line(title, MAX_TEXT)
        if self.external_url:
            known["url"] = f"{self.external_url.rstrip('/')}/incidents/{incident.id}"
        known |= self._sentences(incident, rule, basis, known)
        return {name: value for name, value in known.items() if value != ""}

    def _rule(self, incident: Incident) -> Rule | None:
        """Return the very rule that made an incident, if it is still in the settings."""
        made = (incident.rule, incident.rule_version)
        return next((rule for rule in self.rules if (rule.name, rule.version) == made), None)

    def _words(
        self, incident: Incident, rule: Rule | None, findings: Mapping[str, Finding]
    ) -> dict[str, Any]:
        """Return the questions and their wording; none that was worded otherwise when asked."""
        first = findings.get(incident.evidence[0]) if incident.evidence else None
        question = first.question if first else rule.question if rule else ""
        words = dict[str, Any]()
        if question and not question.startswith(PREFIX):
            words["question"] = question
        asked = self.questions.get(question)
        if asked and first and first.question_version == asked.version:
            words["ask"] = one_line(asked.ask, MAX_TEXT)
        if first and first.zone is not None:
            words["zone"] = first.zone
        second = rule and (rule.then or rule.without)
        if second:
            words["second_question"] = second
        if second and second in self.questions:
            words["second_ask"] = one_line(self.questions[second].ask, MAX_TEXT)
        return words

    def _sentences(
        self,
        incident: Incident,
        rule: Rule | None,
        basis: _Basis | None,
        known: Mapping[str, Any],
    ) -> dict[str, Any]:
        values = _values(incident, rule, known) | {"site": self.origin.site}
        wording = self.wordings.get(incident.rule, Wording())
        summary = wording.summary or _summary(incident, rule, basis)
        description = wording.description or _description(incident, known)
        return {
            "summary": one_line(fill(summary, values), MAX_TEXT),
            "description": one_line(fill(description, values), MAX_TEXT),
        }


PLAIN = Describer()
"""A describer that knows no settings."""


def fitted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an incident, less of the longest where they would be too many bytes.

    The ids of the middle of the evidence go first, then the ends of its texts.
    """
    fit = dict(fields)
    for name in _TEXTS:
        if name in fit:
            fit[name] = one_line(str(fit[name]), MAX_TEXT)
    while _size(fit) >= MAX_BYTES and len(fit["evidence"]) > 1:
        half = len(fit["evidence"]) // 2
        fit["evidence"] = [*fit["evidence"][:half], *fit["evidence"][half + 1 :]]
    for name in _TEXTS:
        if _size(fit) < MAX_BYTES:
            break
        if name in fit:
            fit[name] = one_line(fit[name], _SHORT)
    return fit if _size(fit) < MAX_BYTES else fit | {"evidence": []}


def _basis(incident: Incident, rule: Rule | None, findings: Mapping[str, Finding]) -> _Basis | None:
    """Return the findings of the question that decides: the second one with `then`."""
    behind = [findings[id] for id in incident.evidence if id in findings]
    if not behind:
        return None
    question = (rule and rule.then) or behind[0].question
    answers = [each for each in behind if each.question == question] or behind
    opened = incident.opened_at or incident.last_seen_at
    opening = next((each for each in reversed(answers) if each.end <= opened), answers[0])
    return _Basis(opening=opening, latest=answers[-1])


def _answers(incident: Incident, rule: Rule | None, basis: _Basis | None) -> dict[str, Any]:
    """Return the score and margin of the latest answer behind an incident, and since when it was.

    That is when the run of yes began that opened it; of a health incident when it was first seen.
    """
    if basis is None:
        is_health = rule is not None and rule.question.startswith(PREFIX)
        return {"since": incident.first_seen_at.isoformat()} if is_health else {}
    since = basis.opening.since if basis.is_yes else incident.first_seen_at
    score, margin = basis.latest.score, basis.latest.margin
    return {"score": score, "margin": margin, "since": since.isoformat()}


def _values(incident: Incident, rule: Rule | None, known: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands for each placeholder; a title or a wording defaults to the name."""
    fields = incident_fields(incident) | dict(known)
    values = {name: str(value) for name, value in fields.items() if isinstance(value, str)}
    for name, at in fields.items():
        if name.endswith("_at") or name == "since":
            values[name] = _time(at)
    values["camera_title"] = known.get("camera_title", incident.camera)
    values["ask"] = known.get("ask", known.get("question", incident.rule))
    values["second_ask"] = known.get("second_ask", known.get("second_question", ""))
    if "score" in known:
        values["score"], values["margin"] = f"{known['score']:.2f}", f"{known['margin']:+.1f}"
    if rule is not None and rule.within:
        values["within"] = format_duration(rule.within)
    return values


def _summary(incident: Incident, rule: Rule | None, basis: _Basis | None) -> str:
    """Return the default template: what is the case since when, or was until when."""
    claim = None if rule is None else _claim(rule, incident, basis)
    if claim is None:
        return "{rule} on {camera_title}"
    if rule is not None and rule.without is not None and incident.opened_at:
        return _WITHOUT
    reason = ": {reason}" if incident.reason else ""
    time = " since {since}" if incident.is_live else " from {since} to {last_seen_at}"
    return "{camera_title}: " + claim + time + reason


def _claim(rule: Rule, incident: Incident, basis: _Basis | None) -> str | None:
    """Return what is the case, where the findings that say so are known."""
    if rule.question.startswith(PREFIX):
        state = rule.question.removeprefix(PREFIX)
        return HEALTH_SENTENCES.get(state, state)
    if basis is None:
        return None
    answer = "yes" if basis.is_yes else "scored {score}"
    second = ", then {second_ask} " if rule.then is not None and incident.opened_at else " "
    return "{ask}" + second + answer


def _description(incident: Incident, known: Mapping[str, Any]) -> str:
    score = "; score {score}, margin {margin}" if "score" in known else ""
    reason = ". Reason: {reason}" if incident.reason else ""
    return _DESCRIPTION + score + reason


def _time(at: object) -> str:
    return "" if at is None else f"{datetime.fromisoformat(str(at)):%Y-%m-%d %H:%M:%SZ}"


def _size(fields: Mapping[str, Any]) -> int:
    return len(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode())
