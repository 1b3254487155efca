"""How nano is asked: in many phrasings, of which some are kept back, and in few tokens."""

import re
from hashlib import sha256

import pytest
from hypothesis import given, settings

from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop import moments
from analyzer.nano.workshop.lessons import phrasings
from analyzer.nano.workshop.lessons.grammar import expand
from analyzer.nano.workshop.lessons.lessons import (
    ANOMALY_ASKS,
    KIND_ASKS,
    UNSEEN_ANOMALY_ASKS,
    UNSEEN_KIND_ASKS,
    make_tokenizer,
    texts,
)
from analyzer.nano.workshop.lessons.phrasings import NAMES, NEVER
from analyzer.nano.workshop.renderer.events import EventKind
from kit.model.lessons import TOPICS, YES_NO, LessonCase, cases, pattern, phrasings_of, topic_of

SHORTEST, LONGEST = 12, 24
CANONICAL = {
    None: "Is anything unusual happening?",
    EventKind.FIRE: "Is there a fire?",
    EventKind.FALL: "Has someone fallen?",
    EventKind.ABANDONED: "Is there a bag that nobody is with?",
    EventKind.CROWD: "Is there a crowd?",
    EventKind.FIGHT: "Is there a fight?",
    EventKind.INTRUSION: "Is someone in the restricted zone?",
    EventKind.WRONG_WAY: "Is a vehicle driving the wrong way?",
    EventKind.LOITERING: "Is someone loitering?",
}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_phrasings_held_back_never_come_out(at: LessonCase) -> None:
    for lesson in (*at.lessons(), *at.told()):
        topic, kind = topic_of(lesson.ask)
        assert not pattern(phrasings_of(topic)[kind].unseen).fullmatch(lesson.ask), lesson


@pytest.mark.parametrize("kind", [None, *EventKind])
def test_each_question_has_many_phrasings_of_which_a_tenth_is_held_back(
    kind: EventKind | None,
) -> None:
    asks = KIND_ASKS[kind] if kind else ANOMALY_ASKS
    held = UNSEEN_KIND_ASKS[kind] if kind else UNSEEN_ANOMALY_ASKS
    assert asks[0] == CANONICAL[kind]
    assert set(phrasings.KNOWN[kind]) <= set(asks)
    assert len(asks) >= SHORTEST
    assert len(held) == max(2, round((len(asks) + len(held)) / 10))


def test_a_phrasing_means_one_thing_and_is_of_words_that_are_taught() -> None:
    seen_, unseen = (
        [ask for each in phrasings.ALL for ask in getattr(each, part)]
        for part in ("seen", "unseen")
    )
    assert len(phrasings.ALL) == sum(len(phrasings_of(topic)) for topic in TOPICS)
    assert len({*seen_, *unseen}) == len(seen_) + len(unseen)
    for each in phrasings.ALL:
        taught, held = (
            set(re.findall(r"\w+", " ".join(asks))) for asks in (each.seen, each.unseen)
        )
        assert held <= taught
        assert len(each.unseen) >= 2


def test_what_is_held_back_stays_the_same() -> None:
    """Whoever changes a phrasing must train again: the shipped weights know what was seen."""
    held = "\n".join(ask for each in phrasings.ALL for ask in each.unseen)
    assert sha256(held.encode()).hexdigest()[:12] == "74ab39f07bf8"


def test_canonical_questions_in_words_are_those_of_the_product() -> None:
    for kind, name in NAMES.items():
        assert phrasings.WHEN[kind].seen[0] == moments.SPAN_PROMPT.format(event=name)
    assert phrasings.WHAT_BETWEEN.seen[0] == moments.SUMMARY_PROMPT


def test_templates_stand_for_all_their_alternatives() -> None:
    assert expand("Is (a|b) (c|)?") == ("Is a c?", "Is a ?", "Is b c?", "Is b ?")
    assert expand("Is it?") == ("Is it?",)


def test_tokenizer_is_small_and_never_read_what_is_held_back() -> None:
    read = texts()
    for each in phrasings.ALL:
        held = pattern(each.unseen)
        assert not any(held.search(text) for text in read)
    tokenizer = make_tokenizer(768)
    assert tokenizer.get_vocab_size() <= 768
    assert tokenizer.to_str() == make_tokenizer(768).to_str()


def test_questions_are_short() -> None:
    tokenizer = make_tokenizer(768)
    worst = {"place": "on the right side", "t": 3600, "many": 12}
    for topic in YES_NO:
        for each in phrasings_of(topic).values():
            for ask in (*each.seen, *each.unseen):
                ids = tokenizer.encode(prompt.question_text(ask.format(**worst))).ids
                assert len(ids) <= LONGEST, ask
    for answer in ("12.0s - 30.5s", "1234.5s - 3456.7s", NEVER):
        assert len(tokenizer.encode(answer).ids) < moments.SPAN_MAX_TOKENS
