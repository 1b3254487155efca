"""Scenes as the lessons know them, and what a question asks."""

import re
from dataclasses import dataclass
from functools import cache

from hypothesis import strategies as st
from numpy.random import default_rng

from analyzer.nano.workshop.lessons import phrasings
from analyzer.nano.workshop.lessons.grammar import Phrasings
from analyzer.nano.workshop.lessons.lessons import Lesson, worded_lessons, yes_no_lessons
from analyzer.nano.workshop.lessons.phrasings import PLACES
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent

SECONDS = 64
OPEN_QUESTIONS = ("WHEN", "WHERE")
OF_SUBJECTS = ("IS", "FREE", "PLACED", "EVER", "BEFORE", "AFTER", "UNTIL", *OPEN_QUESTIONS)
OF_ALL = ("WHAT", "WHAT_BETWEEN", "HOW_MANY", "MORE", "FEWER", "ANYBODY")
TOPICS = (*OF_SUBJECTS, *OF_ALL)
SLOTTED = ("PLACED", "AFTER", "UNTIL", "WHAT_BETWEEN", "MORE", "FEWER")
YES_NO = {*TOPICS} - {*OPEN_QUESTIONS, "WHAT", "WHAT_BETWEEN", "HOW_MANY"}
SLOT = r"\\\{(\w+)[^}]*\\\}"
PLACE_PHRASES = "|".join(said for words in PLACES.values() for said in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonScene:
    """As much of a scene as is asked about; one count of people a second."""

    events: tuple[SceneEvent, ...] = ()
    counts: tuple[int, ...] = (0,) * SECONDS

    def people(self, t: float) -> int:
        return self.counts[int(t)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonCase:
    """Where questions are asked: a scene, the window, and when in the epoch the scene begins."""

    scene: LessonScene
    start: float
    end: float
    offset: float
    seed: int

    def lessons(self, many: int = 12) -> list[Lesson]:
        r = default_rng(self.seed)
        return yes_no_lessons(r, self.scene, self.start, self.end, offset=self.offset, count=many)

    def told(self, many: int = 30) -> list[Lesson]:
        r = default_rng(self.seed)
        return worded_lessons(r, self.scene, self.start, self.end, offset=self.offset, count=many)


def event(kind: EventKind, start: float, end: float, x: float = 0.1) -> SceneEvent:
    return SceneEvent(kind=kind, start=start, end=end, x=x, y=0.5)


def case(*events: SceneEvent, people: int = 0, nth: int = 2, seed: int = 0) -> LessonCase:
    scene = LessonScene(events=events, counts=(people,) * SECONDS)
    return LessonCase(scene=scene, start=16.0 * nth, end=16.0 * nth + 16, offset=0.0, seed=seed)


@st.composite
def events(draw: st.DrawFn) -> SceneEvent:
    start = draw(st.integers(-40, 8 * SECONDS)) / 8
    longer = draw(st.integers(1, 240)) / 8
    return event(
        draw(st.sampled_from(EventKind)), start, start + longer, draw(st.integers(0, 50)) / 50
    )


@st.composite
def cases(draw: st.DrawFn) -> LessonCase:
    start = 16.0 * draw(st.integers(0, 3))
    # The same for long, or another every other second.
    counts = draw(st.lists(st.integers(0, 14), min_size=1, max_size=SECONDS // 2))
    many = tuple(counts[t * len(counts) // SECONDS] for t in range(SECONDS))
    return LessonCase(
        scene=LessonScene(events=tuple(draw(st.lists(events(), max_size=4))), counts=many),
        start=start,
        end=start + 16,
        offset=draw(st.integers(0, 340000)) / 100,
        seed=draw(st.integers(0, 1 << 30)),
    )


def phrasings_of(topic: str) -> dict[EventKind | None, Phrasings]:
    found = getattr(phrasings, topic)
    return found if isinstance(found, dict) else {None: found}


@cache
def pattern(asks: tuple[str, ...]) -> re.Pattern[str]:
    """Match what phrasings become when their slots are filled."""

    def filled(slot: re.Match[str]) -> str:
        return f"(?:{PLACE_PHRASES})" if slot[1] == "place" else r"[\d.]+"

    return re.compile("|".join(re.sub(SLOT, filled, re.escape(ask)) for ask in asks))


@cache
def topic_by_phrasing() -> dict[str, tuple[str, EventKind | None]]:
    """Return what each phrasing without a slot is about."""
    each = [(name, who, way) for name in TOPICS for who, way in phrasings_of(name).items()]
    return {ask: (name, who) for name, who, way in each for ask in way.seen if "{" not in ask}


@cache
def topic_of(ask: str) -> tuple[str, EventKind | None]:
    """Return what a question is about; it must be about one thing alone."""
    if ask in topic_by_phrasing():
        return topic_by_phrasing()[ask]
    (found,) = (
        (name, who)
        for name in SLOTTED
        for who, way in phrasings_of(name).items()
        if pattern(way.seen).fullmatch(ask)
    )
    return found
