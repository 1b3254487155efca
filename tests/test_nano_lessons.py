"""What nano is asked while it is taught: the answers are true, and told of what can be seen."""

import re

import pytest
from hypothesis import example, given, settings
from numpy.random import default_rng

from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop import moments
from analyzer.nano.workshop.lessons.facts import MIN_VISIBLE_SECONDS, visible_seconds
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS, Lesson, caption
from analyzer.nano.workshop.lessons.phrasings import NEVER, NOTHING, NOWHERE, PLACES
from analyzer.nano.workshop.moments import SecondsSpan
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent
from kit.model.lessons import YES_NO, LessonCase, LessonScene, case, cases, event, topic_of


def numbers(ask: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", ask)]


def shared(one: SceneEvent, start: float, end: float) -> float:
    return max(0.0, min(one.end, end) - max(one.start, start))


def sure(scene: LessonScene, kind: EventKind | None, start: float, end: float) -> bool:
    """Say whether it is there; fail where nobody could tell."""
    total = {
        own: sum(shared(e, start, end) for e in scene.events if e.kind is own) for own in EventKind
    }
    asked = list(total.values()) if kind is None else [total[kind]]
    there = any(seconds >= MIN_VISIBLE_SECONDS for seconds in asked)
    assert there or not any(asked), (kind, start, end, scene)
    return there


def third(x: float) -> str:
    return list(PLACES)[min(int(3 * x), 2)]


def true_answer(at: LessonCase, ask: str) -> bool:
    topic, kind = topic_of(ask)
    if topic == "PLACED":
        return placed(at, kind, ask)
    if topic in {"ANYBODY", "MORE", "FEWER"}:
        return counted(at, topic, ask)
    second = next(iter(numbers(ask)), 0.0) - at.offset
    span = {
        "EVER": (0, at.end),
        "BEFORE": (0, at.start),
        "AFTER": (second, at.end),
        "UNTIL": (0, second),
    }.get(topic, (at.start, at.end))
    assert topic in {"IS", "FREE", "EVER", "BEFORE", "AFTER", "UNTIL"}
    return sure(at.scene, kind, *span) != (topic == "FREE")


def counted(at: LessonCase, topic: str, ask: str) -> bool:
    """Answer for each of the last stills; they must agree."""
    than = next(iter(numbers(ask)), 0.0)
    last = [at.scene.people(at.end - 1 - nth) for nth in range(4)]
    (answer,) = {many < than if topic == "FEWER" else many > than for many in last}
    return answer


def placed(at: LessonCase, kind: EventKind | None, ask: str) -> bool:
    own = [e for e in at.scene.events if e.kind is kind and shared(e, at.start, at.end) > 0]
    assert all(shared(e, at.start, at.end) >= MIN_VISIBLE_SECONDS for e in own)
    assert all(min(abs(e.x - 1 / 3), abs(e.x - 2 / 3)) >= 0.04 for e in own)
    (said,) = [place for place, words in PLACES.items() if any(word in ask for word in words)]
    return said in {third(e.x) for e in own}


@settings(max_examples=80, deadline=None)
@given(cases())
@example(case(event(EventKind.FIRE, 47, 60)))
@example(case(event(EventKind.FIRE, 33, 60, x=0.35), event(EventKind.FIRE, 33, 60, x=0.9)))
def test_yes_and_no_agree_with_what_happens(at: LessonCase) -> None:
    asked = at.lessons()
    assert len(asked) == 12
    for lesson in asked:
        expected = prompt.YES if true_answer(at, lesson.ask) else prompt.NO
        assert lesson.answer == expected, lesson


@settings(max_examples=80, deadline=None)
@given(cases())
@example(
    case(
        event(EventKind.FIRE, 30, 50),
        event(EventKind.FIRE, 10, 12),
        event(EventKind.FALL, 33, 60, x=0.5),
    )
)
def test_words_agree_with_what_happens(at: LessonCase) -> None:
    for lesson in at.told():
        topic, kind = topic_of(lesson.ask)
        match topic:
            case "WHEN":
                check_span(at, kind, lesson.answer)
            case "WHERE":
                check_place(at, kind, lesson.answer)
            case "HOW_MANY":
                last = {at.scene.people(at.end - 1 - nth) for nth in range(4)}
                assert lesson.answer in {str(min(last)), "many"}
                assert len(last) == 1 or min(last) >= 10
                assert (lesson.answer == "many") == (min(last) >= 10)
            case _:
                check_caption(at, topic, lesson)


def check_span(at: LessonCase, kind: EventKind | None, answer: str) -> None:
    shown = SecondsSpan(start=at.offset, end=at.offset + at.end)
    found = moments.parse_span(answer, shown)
    own = [e for e in at.scene.events if e.kind is kind and shared(e, 0, at.end)]
    if found is None:
        assert answer == NEVER
        assert not own
    else:
        (one,) = own
        assert shared(one, 0, at.end) >= MIN_VISIBLE_SECONDS
        assert found.start == pytest.approx(max(one.start, 0) + at.offset, abs=0.1)
        assert found.end == pytest.approx(min(one.end, at.end) + at.offset, abs=0.1)
        assert re.fullmatch(r"\d+\.\ds - \d+\.\ds", answer)


def check_place(at: LessonCase, kind: EventKind | None, answer: str) -> None:
    own = [e for e in at.scene.events if e.kind is kind and shared(e, at.start, at.end)]
    if answer == NOWHERE:
        assert not own
    else:
        (one,) = own
        assert shared(one, at.start, at.end) >= MIN_VISIBLE_SECONDS
        assert answer == third(one.x)
        assert min(abs(one.x - 1 / 3), abs(one.x - 2 / 3)) >= 0.04


def check_caption(at: LessonCase, topic: str, lesson: Lesson) -> None:
    span = at.start, at.end
    if topic == "WHAT_BETWEEN":
        start, end = numbers(lesson.ask)
        assert at.offset - 1e-6 <= start < end <= at.offset + at.end + 1e-6
        span = start - at.offset, end - at.offset
    assert all(not 0 < shared(e, *span) < MIN_VISIBLE_SECONDS for e in at.scene.events)
    assert lesson.answer == caption(at.scene, *span)
    assert lesson.answer.count(".") <= 2


def test_half_of_the_questions_are_about_what_is_there() -> None:
    for seed in range(30):
        asked = case(event(EventKind.FIRE, 30, 60), people=3, seed=seed).lessons(many=8)
        about = [topic_of(lesson.ask)[1] for lesson in asked]
        people = sum(topic_of(lesson.ask)[0] in {"ANYBODY", "MORE", "FEWER"} for lesson in asked)
        assert about.count(EventKind.FIRE) + about.count(None) >= 4, asked
        assert people <= 2
        assert sum(kind not in {None, EventKind.FIRE} for kind in about) >= 2


def eventful(seed: int) -> LessonCase:
    """Return a window of a scene in which an event starts in most windows."""
    r = default_rng(seed)
    starts = [16 * nth + r.uniform(0, 9) for nth in range(4) if r.random() < 0.6]
    kinds = r.choice(list(EventKind), len(starts))
    happened = [
        event(EventKind(kind), start, start + r.uniform(8, 26), r.random())
        for kind, start in zip(kinds, starts, strict=True)
    ]
    return case(*happened, people=int(r.integers(7)), nth=int(r.integers(4)), seed=seed)


def test_neither_yes_nor_no_can_be_learnt_by_heart() -> None:
    answers: dict[str, list[bool]] = {}
    for seed in range(300):
        for lesson in eventful(seed).lessons(many=8):
            answers.setdefault(topic_of(lesson.ask)[0], []).append(lesson.answer == prompt.YES)
    shares = {topic: sum(said) / len(said) for topic, said in answers.items()}
    assert shares.keys() == YES_NO
    assert all(0.12 < share < 0.88 for share in shares.values()), shares


def test_lessons_do_not_ask_about_what_is_seen_too_briefly() -> None:
    def told_of(start: float) -> dict[str, bool]:
        asked = [case(event(EventKind.FIRE, start, 60), seed=seed).lessons(8) for seed in range(60)]
        every = (lesson for each in asked for lesson in each)
        return {
            lesson.ask: lesson.answer == prompt.YES
            for lesson in every
            if topic_of(lesson.ask)[0] == "IS"
        }

    brief, plain = told_of(48.5 - MIN_VISIBLE_SECONDS), told_of(48 - MIN_VISIBLE_SECONDS)
    assert not brief.keys() & {*KIND_ASKS[EventKind.FIRE], *ANOMALY_ASKS}
    assert plain.keys() & set(KIND_ASKS[EventKind.FIRE])
    assert plain.keys() & set(ANOMALY_ASKS)
    for ask, answer in plain.items():
        assert answer == (ask in {*KIND_ASKS[EventKind.FIRE], *ANOMALY_ASKS})


def test_anything_is_asked_about_when_another_event_is_plain() -> None:
    at = [
        case(event(EventKind.FIRE, 47.5, 60), event(EventKind.FALL, 30, 60), seed=n)
        for n in range(40)
    ]
    asked = {lesson for each in at for lesson in each.lessons(8)}
    assert {each.answer for each in asked if each.ask in ANOMALY_ASKS} == {prompt.YES}
    assert not {each.ask for each in asked} & set(KIND_ASKS[EventKind.FIRE])


def test_what_moves_through_the_picture_is_in_no_place() -> None:
    at = case(event(EventKind.WRONG_WAY, 33, 40, x=0.1))
    assert caption(at.scene, 32, 48) == "A vehicle drives the wrong way."
    asked = [each for seed in range(20) for each in case(*at.scene.events, seed=seed).told()]
    assert ("WHERE", EventKind.WRONG_WAY) not in {topic_of(lesson.ask) for lesson in asked}


def test_people_are_counted_where_the_last_stills_agree() -> None:
    def told_of(*counts: int) -> set[Lesson]:
        scene = LessonScene(counts=(*counts,) * 16)
        each = [
            LessonCase(scene=scene, start=16, end=32, offset=0, seed=seed) for seed in range(30)
        ]
        asked = {lesson for at in each for lesson in (*at.lessons(), *at.told())}
        return {lesson for lesson in asked if topic_of(lesson.ask)[0] in {"ANYBODY", "HOW_MANY"}}

    assert not told_of(0, 0, 0, 1)
    assert {lesson.answer for lesson in told_of(3, 2, 3, 3)} == {prompt.YES}
    assert {lesson.answer for lesson in told_of(0, 0, 0, 0)} == {prompt.NO, "0"}
    assert {lesson.answer for lesson in told_of(10, 12, 11, 10)} == {prompt.YES, "many"}


def test_what_began_before_the_stream_is_told_from_its_start() -> None:
    at = case(event(EventKind.FIRE, -5, 9), nth=0)
    spans = {
        lesson.answer for lesson in at.told() if topic_of(lesson.ask) == ("WHEN", EventKind.FIRE)
    }
    assert spans == {"0.0s - 9.0s"}


def test_captions_tell_each_event_in_turn() -> None:
    fire, fall = event(EventKind.FIRE, 20, 60, x=0.9), event(EventKind.FALL, 10, 60, x=0.34)
    scene = LessonScene(events=(fire, fall, event(EventKind.CROWD, 31, 60)))
    assert caption(scene, 0, 16) == "Someone falls."
    assert caption(scene, 16, 32) == "Someone falls. Something burns on the right."
    assert caption(scene, 60, 64) == NOTHING
    assert (
        caption(LessonScene(events=(fire, event(EventKind.FIRE, 20, 60, x=0.9))), 16, 32).count(".")
        == 1
    )


def test_lessons_are_a_function_of_the_generator() -> None:
    at = case(event(EventKind.FIRE, 30, 60), people=4)
    other = case(event(EventKind.FIRE, 30, 60), people=4, seed=1)
    assert (at.lessons(), at.told()) == (at.lessons(), at.told())
    assert (at.lessons(), at.told()) != (other.lessons(), other.told())


def test_seconds_of_two_events_of_a_kind_add_up() -> None:
    fires = event(EventKind.FIRE, 0, 3), event(EventKind.FIRE, 10, 30)
    assert visible_seconds(fires, 2, 16) == {EventKind.FIRE: 7}
