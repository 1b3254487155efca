"""What a message says of an incident, whatever stands in names, questions and reasons."""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from alerts.dispatch.describer import (
    DEFAULT_DESCRIBER,
    MAX_BYTES,
    MAX_TEXT,
    Describer,
    QuestionWording,
    RuleTemplates,
    shorten_to_limit,
)
from alerts.dispatch.templates import PLACEHOLDERS, check_template, render
from alerts.rules.health import HealthState
from alerts.rules.rule import Rule
from kit.alerts.samples import RULE
from kit.storage.fixtures import START, WINDOW_LENGTH, a_finding, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.records.records import Finding, Incident, IncidentState, YesNoAnswer
from storage.records.wire import MAX_EVIDENCE, incident_fields

SCHEMA = json.loads((Path(__file__).parent.parent / "alerts/schemas/message.v3.json").read_text())
INCIDENT = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/incident"}
SECOND = timedelta(seconds=1)
BAG = replace(RULE, name="bag-left", question="bag")
ASK = "Is there a bag that nobody is with?"
KNOWN = Describer(
    rules=(BAG,),
    questions={
        "bag": QuestionWording(ask=ASK, version="q1"),
        "owner": QuestionWording(ask="Is it taken?", version="q2"),
    },
    titles={"dock": "Loading dock"},
    external_url="https://watch.example/",
)


def made_by(rule: Rule, **changes: Any) -> Incident:
    incident = an_incident()
    return replace(incident, rule=rule.name, rule_version=rule.version, **changes)


def by_id(*findings: Finding) -> dict[str, Finding]:
    return {finding.id: finding for finding in findings}


def message_incident(
    incident: Incident, *findings: Finding, by: Describer = KNOWN
) -> dict[str, Any]:
    """Return the fields of an incident as a message has them; they fit the schema."""
    fields = shorten_to_limit(incident_fields(incident) | by.facts(incident, by_id(*findings)))
    jsonschema.validate(fields, INCIDENT, format_checker=jsonschema.FormatChecker())
    return fields


def test_ticket_can_be_written_from_the_fields_of_an_incident() -> None:
    opening = replace(a_finding(score=0.93), since=START - WINDOW_LENGTH)
    fields = message_incident(made_by(BAG), opening)
    expected = {
        "question": "bag",
        "ask": ASK,
        "score": 0.93,
        "margin": opening.margin,
        "since": (START - WINDOW_LENGTH).isoformat(),
        "camera_title": "Loading dock",
        "url": "https://watch.example/incidents/00000000-0000-0000-0000-000000000007",
        "summary": f"Loading dock: {ASK} yes since 2026-11-22 07:59:44Z",
        "description": "Rule bag-left on camera dock, severity high, open; score 0.93, margin +1.7",
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields.keys() >= incident_fields(an_incident()).keys()


def test_score_is_the_latest_and_since_is_of_the_finding_that_opened_it() -> None:
    findings = [replace(a_finding(n, 0.9 - n / 100), since=START + n * SECOND) for n in range(4)]
    ids = tuple(finding.id for finding in findings)
    opened = made_by(BAG, evidence=ids, opened_at=findings[1].end, last_seen_at=findings[3].end)
    fields = message_incident(opened, *findings)
    assert fields["score"] == findings[3].score
    assert fields["since"] == findings[1].since.isoformat()


def test_what_is_over_is_not_told_as_if_it_lasted() -> None:
    closed = made_by(BAG, state=IncidentState.RESOLVED, closed_at=START + 9 * WINDOW_LENGTH)
    summary = message_incident(closed, a_finding())["summary"]
    assert summary == f"Loading dock: {ASK} yes from 2026-11-22 08:00:00Z to 2026-11-22 08:00:32Z"


def test_answer_of_no_is_not_told_as_yes() -> None:
    low = replace(a_finding(score=0.3), answer=YesNoAnswer.NO)
    fields = message_incident(made_by(BAG), low)
    assert fields["summary"].endswith("scored 0.30 since 2026-11-22 08:00:00Z")
    assert fields["since"] == an_incident().first_seen_at.isoformat()


def test_question_that_is_worded_otherwise_by_now_is_named_and_not_quoted() -> None:
    old = replace(a_finding(), question_version="old")
    fields = message_incident(made_by(BAG, evidence=(old.id,)), old)
    assert "ask" not in fields
    assert fields["question"] == "bag"
    assert fields["summary"].startswith("Loading dock: bag yes since")


def test_rule_that_was_changed_says_nothing_of_what_it_was() -> None:
    fields = message_incident(replace(made_by(BAG), rule_version="older"), a_finding())
    assert fields["summary"] == "bag-left on Loading dock"
    assert message_incident(an_incident(), by=DEFAULT_DESCRIBER)["summary"] == "bag-left on dock"


def test_question_about_a_zone_says_which() -> None:
    rule = replace(BAG, name="bag-left")
    wording = {"bag-left": RuleTemplates(summary="{camera_title}, {zone}: {ask}")}
    finding = replace(a_finding(), zone="yard")
    fields = message_incident(made_by(rule), finding, by=replace(KNOWN, templates=wording))
    assert (fields["zone"], fields["summary"]) == ("yard", f"Loading dock, yard: {ASK}")
    assert "zone" not in message_incident(made_by(rule), a_finding())


@pytest.mark.parametrize(
    ("rule", "summary"),
    [
        (
            replace(BAG, then="owner", within=timedelta(minutes=40)),
            f"Loading dock: {ASK}, then Is it taken? yes since 2026-11-22 08:00:16Z",
        ),
        (
            replace(BAG, without="owner", within=timedelta(minutes=40)),
            f"Loading dock: {ASK} yes at 2026-11-22 08:00:00Z, but no yes to Is it taken?"
            " within 40m",
        ),
    ],
)
def test_sequence_is_told_with_both_questions(rule: Rule, summary: str) -> None:
    first, second = a_finding(), a_finding(1, 0.8, question="owner")
    by = replace(KNOWN, rules=(rule,))
    fields = message_incident(made_by(rule, evidence=(first.id, second.id)), first, second, by=by)
    assert fields["summary"] == summary
    assert (fields["question"], fields["second_question"]) == ("bag", "owner")
    assert (fields["ask"], fields["second_ask"]) == (ASK, "Is it taken?")
    assert fields["score"] == (0.8 if rule.then else 0.9)


@pytest.mark.parametrize("then", [True, False])
def test_sequence_that_waits_for_its_second_question_says_nothing_of_it(then: bool) -> None:
    second: dict[str, Any] = {"then" if then else "without": "owner"}
    rule = replace(BAG, within=timedelta(minutes=40), **second)
    waiting = made_by(rule, state=IncidentState.PENDING, opened_at=None)
    facts = replace(KNOWN, rules=(rule,)).facts(waiting, by_id(a_finding()))
    assert facts["summary"] == f"Loading dock: {ASK} yes since 2026-11-22 08:00:00Z"


def test_every_state_that_a_rule_may_watch_has_its_words() -> None:
    for state in HealthState:
        rule = replace(RULE, name=state, question=f"health/{state}")
        summary = message_incident(made_by(rule), by=replace(KNOWN, rules=(rule,)))["summary"]
        assert not summary.startswith(f"Loading dock: {state} ")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("camera_down", "no video"),
        ("frozen", "the picture is frozen"),
        ("covered", "the camera is covered or dark"),
        ("unwatched", "nobody watches this camera"),
        ("undelivered", "messages are not delivered"),
    ],
)
def test_health_is_told_with_its_reason(state: str, words: str) -> None:
    rule = replace(RULE, name=state, question=f"health/{state}")
    fields = message_incident(
        made_by(rule, reason="10.0.0.21 refuses the password", evidence=("dock@x",)),
        by=replace(KNOWN, rules=(rule,)),
    )
    assert fields["summary"] == (
        f"Loading dock: {words} since 2026-11-22 08:00:00Z: 10.0.0.21 refuses the password"
    )
    assert fields["reason"] == "10.0.0.21 refuses the password"
    assert fields["since"] == START.isoformat()
    assert "question" not in fields
    assert message_incident(made_by(rule), by=replace(KNOWN, rules=(rule,)))["summary"].endswith(
        ":00Z"
    )


def test_templates_of_a_rule_take_the_place_of_the_sentences() -> None:
    wording = RuleTemplates(
        summary="{{{severity}}} {ask} ({score}, {margin})", description="{reason}!"
    )
    by = replace(KNOWN, templates={"bag-left": wording})
    fields = message_incident(made_by(BAG), a_finding(), by=by)
    assert fields["summary"] == f"{{high}} {ASK} (0.90, +1.6)"
    assert fields["description"] == "-!"


@pytest.mark.parametrize(
    "template",
    [
        "{0.__class__}", "{camera.__class__}", "{camera[0]}", "{camera!r}", "{camera:>999999999}",
        "{}", "{0}", "{ask", "ask}", "{camera:{ask}}", "{ camera}", "{Camera}", "{ids}", "", "a\nb",
        "x" * 501,
    ],
)  # fmt: skip
def test_template_that_reaches_for_more_is_refused_unseen(template: str) -> None:
    with pytest.raises(ValueError, match="write") as refused:
        check_template(template)
    assert "class" not in str(refused.value)


@given(st.text(), st.sampled_from(PLACEHOLDERS))
def test_what_is_filled_in_is_no_template(text: str, name: str) -> None:
    assert render("<{" + name + "}>", {name: text}) == f"<{text or '-'}>"


HOSTILE = [
    "{0.__class__}", "{{camera}}", "line\r\nforged: header", "\x1b]0;title\x07\x1b[2J",
    "\u202eevil",
    "x" * 100_000, "\U0001f400" * 600, '"' * 600, "\\" * 600, "[/bold][link=x]", "\ud800", "",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_one_short_line(text: str) -> None:
    rule = replace(BAG, without="owner", within=timedelta(minutes=1))
    by = Describer(
        rules=(rule,),
        questions={name: QuestionWording(ask=text, version="q1") for name in ("bag", "owner")},
        titles={"dock": text},
    )
    incident = made_by(rule, reason=text, closed_because=text)
    fields = shorten_to_limit(incident_fields(incident) | by.facts(incident, by_id(a_finding())))
    assert size_of(fields) < MAX_BYTES
    for name in ("ask", "second_ask", "camera_title", "summary", "description", "reason"):
        value = fields.get(name, "")
        assert len(value) <= MAX_TEXT
        assert not [letter for letter in value if unicodedata.category(letter)[0] == "C"]


def size_of(fields: Mapping[str, Any]) -> int:
    return len(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode())


wide = st.sampled_from(["\U0001f400", '"', "\\", "ü", "x"])


@settings(deadline=None, max_examples=60)
@given(wide, st.integers(1, 64), st.integers(1, MAX_EVIDENCE), st.integers(1, 500))
def test_no_incident_takes_more_than_its_share(
    letter: str, name: int, evidence: int, text: int
) -> None:
    finding = replace(a_finding(camera=letter * name), since=START)
    rule = replace(BAG, without="owner", within=timedelta(minutes=1))
    incident = made_by(
        rule,
        camera=letter * name,
        severity=letter * name,
        evidence=(finding.id, *[letter * 512] * (evidence - 1)),
        acknowledged_by=letter * 64,
        acknowledged_at=START,
        closed_because=letter * 512,
        reason=letter * text,
    )
    by = replace(
        KNOWN,
        rules=(rule,),
        questions={
            each: QuestionWording(ask=letter * 300, version="q1") for each in ("bag", "owner")
        },
        titles={letter * name: letter * 100},
        templates={"bag-left": RuleTemplates(summary="{ask}" * 9, description="{reason}" * 9)},
        external_url="https://" + "x" * 192,
    )
    fields = message_incident(replace(incident, rule_version=rule.version), finding, by=by)
    assert size_of(fields) < MAX_BYTES
    assert fields["id"] == str(incident.id)
    assert fields["camera"] == letter * name
    assert fields["evidence"][0] == finding.id


def test_a_message_reads_all_findings_at_once(engine: Engine, store: AlertStore) -> None:
    findings = [a_finding(n) for n in range(50)]
    incidents = [
        replace(made_by(BAG), id=UUID(int=n + 1), rule_version=f"r{n}", evidence=(findings[n].id,))
        for n in range(50)
    ]
    with store.transaction() as transaction:
        transaction.insert_findings(findings)
        transaction.save_revisions([by_rule(each) for each in incidents])
    asked = list[str]()
    event.listen(engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    with store.transaction() as transaction:
        asked.clear()
        fields = KNOWN.describe(transaction, incidents)
    assert [each["id"] for each in fields] == [str(each.id) for each in incidents]
    assert all(each["score"] == 0.9 for each in fields)
    assert len([words for words in asked if "FROM findings" in words]) == 1
