"""The description of an incident in a message, for a person or a ticket system.

It has the question, the score and margin of the answer, its start, the camera's title, sentences
from templates, the reason of a health state, and a link. Texts come from outside: each is cut to
one line of at most MAX_TEXT characters, and an incident to less than MAX_BYTES of JSON.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from alerts.dispatch.messages import NO_ORIGIN, MessageOrigin, encode_compact
from alerts.dispatch.templates import render
from alerts.rules.health import health_sentence, is_health
from alerts.rules.rule import Rule
from storage.db.rows.findings import findings_by_id
from storage.db.transaction import Transaction
from storage.duration import format_duration
from storage.records.records import Finding, Incident, YesNoAnswer
from storage.records.wire import incident_fields
from storage.text import one_line

MAX_TEXT = 500
MAX_BYTES = 6_000
_MIN_TEXT = 60
_TEXTS = ("description", "second_ask", "closed_because", "reason", "ask", "camera_title", "summary")
"""The free texts of an incident, least important first."""

_WITHOUT = (
    "{camera_title}: {ask} yes at {first_seen_at}, but no yes to {second_ask} within {within}"
)
_DESCRIPTION = "Rule {rule} on camera {camera}, severity {severity}, {state}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTemplates:
    """The templates of a rule; an empty one is the default sentence."""

    summary: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionWording:
    """The present wording of a question, and its version in findings."""

    ask: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _IncidentFindings:
    """The finding that opened an incident, and the latest one."""

    opening: Finding
    latest: Finding

    @property
    def is_yes(self) -> bool:
        """Return whether the model answered yes; a rule may also act on a low score."""
        return self.opening.answer is YesNoAnswer.YES


@dataclass(frozen=True, slots=True, kw_only=True)
class Describer:
    """Describe incidents from the settings and from storage."""

    rules: Sequence[Rule] = ()
    templates: Mapping[str, RuleTemplates] = field(default_factory=dict)
    questions: Mapping[str, QuestionWording] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""
    origin: MessageOrigin = NO_ORIGIN

    def describe(
        self, transaction: Transaction, incidents: Sequence[Incident]
    ) -> list[dict[str, Any]]:
        """Return the JSON object of each incident, in order, each below MAX_BYTES."""
        ids = {id for incident in incidents for id in incident.evidence}
        findings = findings_by_id(transaction.connection, ids)
        return [
            shorten_to_limit(incident_fields(each) | self.facts(each, findings))
            for each in incidents
        ]

    def facts(self, incident: Incident, findings: Mapping[str, Finding]) -> dict[str, Any]:
        """Return the fields that storage does not have; `findings` by their ids."""
        rule = self._find_rule(incident)
        basis = _findings_of(incident, rule, findings)
        known = _score_fields(incident, rule, basis) | self._question_fields(
            incident, rule, findings
        )
        if title := self.titles.get(incident.camera):
            known["camera_title"] = one_line(title, MAX_TEXT)
        if self.external_url:
            known["url"] = f"{self.external_url.rstrip('/')}/incidents/{incident.id}"
        known |= self._sentences(incident, rule, basis, known)
        return {name: value for name, value in known.items() if value != ""}

    def _find_rule(self, incident: Incident) -> Rule | None:
        """Return the rule version that made an incident, if it is still in the settings."""
        made = (incident.rule, incident.rule_version)
        return next((rule for rule in self.rules if (rule.name, rule.version) == made), None)

    def _question_fields(
        self, incident: Incident, rule: Rule | None, findings: Mapping[str, Finding]
    ) -> dict[str, Any]:
        """Return the questions, and their wording if it has not changed since."""
        first = findings.get(incident.evidence[0]) if incident.evidence else None
        question = first.question if first else rule.question if rule else ""
        fields = dict[str, Any]()
        if question and not is_health(question):
            fields["question"] = question
        wording = self.questions.get(question)
        if wording and first and first.question_version == wording.version:
            fields["ask"] = one_line(wording.ask, MAX_TEXT)
        if first and first.zone is not None:
            fields["zone"] = first.zone
        second = rule and (rule.then or rule.without)
        if second:
            fields["second_question"] = second
        if second and second in self.questions:
            fields["second_ask"] = one_line(self.questions[second].ask, MAX_TEXT)
        return fields

    def _sentences(
        self,
        incident: Incident,
        rule: Rule | None,
        basis: _IncidentFindings | None,
        known: Mapping[str, Any],
    ) -> dict[str, Any]:
        values = _placeholder_values(incident, rule, known) | {"site": self.origin.site}
        templates = self.templates.get(incident.rule, RuleTemplates())
        summary = templates.summary or _default_summary(incident, rule, basis)
        description = templates.description or _default_description(incident, known)
        return {
            "summary": one_line(render(summary, values), MAX_TEXT),
            "description": one_line(render(description, values), MAX_TEXT),
        }


DEFAULT_DESCRIBER = Describer()
"""A describer without settings."""


def shorten_to_limit(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an incident in less than MAX_BYTES.

    It drops ids from the middle of the evidence first, then shortens texts.
    """
    shortened = dict(fields)
    for name in _TEXTS:
        if name in shortened:
            shortened[name] = one_line(str(shortened[name]), MAX_TEXT)
    while len(encode_compact(shortened)) >= MAX_BYTES and len(shortened["evidence"]) > 1:
        half = len(shortened["evidence"]) // 2
        shortened["evidence"] = [*shortened["evidence"][:half], *shortened["evidence"][half + 1 :]]
    for name in _TEXTS:
        if len(encode_compact(shortened)) < MAX_BYTES:
            break
        if name in shortened:
            shortened[name] = one_line(shortened[name], _MIN_TEXT)
    return shortened if len(encode_compact(shortened)) < MAX_BYTES else shortened | {"evidence": []}


def _findings_of(
    incident: Incident, rule: Rule | None, findings: Mapping[str, Finding]
) -> _IncidentFindings | None:
    """Return the findings of the deciding question: with `then` the second."""
    evidence = [findings[id] for id in incident.evidence if id in findings]
    if not evidence:
        return None
    question = (rule and rule.then) or evidence[0].question
    answers = [each for each in evidence if each.question == question] or evidence
    opened = incident.opened_at or incident.last_seen_at
    opening = next((each for each in reversed(answers) if each.end <= opened), answers[0])
    return _IncidentFindings(opening=opening, latest=answers[-1])


def _score_fields(
    incident: Incident, rule: Rule | None, findings: _IncidentFindings | None
) -> dict[str, Any]:
    """Return the score and margin of the latest answer, and `since`.

    That is the start of the run of yes that opened the incident; for health, its first sample.
    """
    if findings is None:
        is_about_health = rule is not None and is_health(rule.question)
        return {"since": incident.first_seen_at.isoformat()} if is_about_health else {}
    since = findings.opening.since if findings.is_yes else incident.first_seen_at
    score, margin = findings.latest.score, findings.latest.margin
    return {"score": score, "margin": margin, "since": since.isoformat()}


def _placeholder_values(
    incident: Incident, rule: Rule | None, known: Mapping[str, Any]
) -> dict[str, str]:
    """Return the value of each placeholder; a title or wording defaults to the name."""
    fields = incident_fields(incident) | dict(known)
    values = {name: str(value) for name, value in fields.items() if isinstance(value, str)}
    for name, at in fields.items():
        if name.endswith("_at") or name == "since":
            values[name] = _format_time(at)
    values["camera_title"] = known.get("camera_title", incident.camera)
    values["ask"] = known.get("ask", known.get("question", incident.rule))
    values["second_ask"] = known.get("second_ask", known.get("second_question", ""))
    if "score" in known:
        values["score"], values["margin"] = f"{known['score']:.2f}", f"{known['margin']:+.1f}"
    if rule is not None and rule.within:
        values["within"] = format_duration(rule.within)
    return values


def _default_summary(
    incident: Incident, rule: Rule | None, findings: _IncidentFindings | None
) -> str:
    """Return the default template: a statement, and its time."""
    statement = None if rule is None else _statement(rule, incident, findings)
    if statement is None:
        return "{rule} on {camera_title}"
    if rule is not None and rule.without is not None and incident.opened_at:
        return _WITHOUT
    reason = ": {reason}" if incident.reason else ""
    time = " since {since}" if incident.is_live else " from {since} to {last_seen_at}"
    return "{camera_title}: " + statement + time + reason


def _statement(rule: Rule, incident: Incident, findings: _IncidentFindings | None) -> str | None:
    """Return the statement of an incident, None if its findings are unknown."""
    if is_health(rule.question):
        return health_sentence(rule.question)
    if findings is None:
        return None
    answer = "yes" if findings.is_yes else "scored {score}"
    second = ", then {second_ask} " if rule.then is not None and incident.opened_at else " "
    return "{ask}" + second + answer


def _default_description(incident: Incident, known: Mapping[str, Any]) -> str:
    score = "; score {score}, margin {margin}" if "score" in known else ""
    reason = ". Reason: {reason}" if incident.reason else ""
    return _DESCRIPTION + score + reason


def _format_time(at: object) -> str:
    return "" if at is None else f"{datetime.fromisoformat(str(at)):%Y-%m-%d %H:%M:%SZ}"
