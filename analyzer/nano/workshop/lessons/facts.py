"""The facts of a scene, and how to ask for them.

Seconds are those of the scene; the questions count from the start of the epoch, which is `offset`
seconds before that of the scene.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Protocol

from numpy.random import Generator

from analyzer.models.videoxl2 import prompt
from analyzer.nano.workshop.lessons import phrasings
from analyzer.nano.workshop.lessons.grammar import Phrasings, Subject
from analyzer.nano.workshop.lessons.phrasings import CAPTIONS, MANY, NEVER, NOTHING, NOWHERE, PLACES
from analyzer.nano.workshop.renderer.events import EventKind, SceneEvent

MIN_VISIBLE_SECONDS = 2.0
"""An event seen for fewer seconds of a window than this is not asked about."""
COUNTED_STILLS = 4
"""Stills at the end of a window in which the number of people must be the same to be asked."""
BORDER_MARGIN = 0.04
"""Distance from the border of two thirds of the picture within which a position is unclear."""
EVENT_RARITY = 4.0
"""How many times less often a named event is present than absent."""
MOVING_KINDS = frozenset({EventKind.WRONG_WAY})
"""Events that cross the picture and have no single place."""
MAX_CAPTIONED = 2
"""Descriptions are asked for up to this many events."""


class KnownScene(Protocol):
    """The known facts of a scene."""

    @property
    def events(self) -> tuple[SceneEvent, ...]:
        """Return the events."""

    def people(self, t: float) -> int:
        """Return how many people can be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """An answer, its phrasings, and whether it is about something that is present.

    It is drawn by its `weight`, and its loss is multiplied by its `rarity`.
    """

    asks: Phrasings
    answer: str
    is_present: bool
    weight: float = 1.0
    rarity: float = 1.0
    slots: Mapping[str, object] = field(default_factory=dict)


def visible_seconds(
    events: tuple[SceneEvent, ...], start: float, end: float
) -> dict[EventKind, float]:
    """Return for how many seconds of a window each kind of event could be seen."""
    seconds: dict[EventKind, float] = {}
    for event in events:
        shared = _shared(event, start, end)
        if shared > 0:
            seconds[event.kind] = seconds.get(event.kind, 0) + shared
    return seconds


def caption(events: Sequence[SceneEvent], start: float, end: float) -> str:
    """Return a sentence per event that is visible from `start` to `end`."""
    visible = sorted(_visible(events, start, end), key=lambda event: event.start)
    return " ".join(dict.fromkeys(map(_sentence, visible))) or NOTHING


def _sentence(event: SceneEvent) -> str:
    place = _place(event)
    return CAPTIONS[event.kind] + (f" {PLACES[place][0]}" if place else "") + "."


def _shared(event: SceneEvent, start: float, end: float) -> float:
    return min(event.end, end) - max(event.start, start)


def _visible(events: Sequence[SceneEvent], start: float, end: float) -> list[SceneEvent]:
    """Return the events that are seen long enough."""
    return [event for event in events if _shared(event, start, end) >= MIN_VISIBLE_SECONDS]


def _is_clear(events: Sequence[SceneEvent], start: float, end: float) -> bool:
    """Return whether each event is visible long enough or not at all."""
    return not any(0 < _shared(event, start, end) < MIN_VISIBLE_SECONDS for event in events)


def _place(event: SceneEvent) -> str:
    """Return the third of the picture that an event is in; empty if unclear."""
    borders = (0.0, 1 / 3, 2 / 3, 1.0)
    if event.kind in MOVING_KINDS or any(
        abs(event.x - border) < BORDER_MARGIN for border in borders[1:3]
    ):
        return ""
    thirds = zip(PLACES, borders, borders[1:], strict=False)
    return next((place for place, left, right in thirds if left <= event.x <= right), "")


def _truths(events: tuple[SceneEvent, ...], start: float, end: float) -> dict[Subject, bool]:
    """Return the kinds that are present and absent, without those visible too briefly."""
    seconds = visible_seconds(events, start, end)
    truths: dict[Subject, bool] = {
        kind: kind in seconds
        for kind in EventKind
        if seconds.get(kind, MIN_VISIBLE_SECONDS) >= MIN_VISIBLE_SECONDS
    }
    present = any(truths.values())
    if present or not seconds:
        truths[None] = present
    return truths


def _yes_no_facts(
    asks: Mapping[Subject, Phrasings],
    truths: Mapping[Subject, bool],
    weight: float = 1.0,
    *,
    yes: bool = True,
    slots: Mapping[str, object] | None = None,
) -> Iterator[Fact]:
    """Yield a question about each subject; `yes` is the answer if it is present."""
    for subject, there in truths.items():
        yield Fact(
            asks=asks[subject],
            answer=prompt.YES if there is yes else prompt.NO,
            is_present=there,
            # Windows in which nothing happens are the fewer.
            weight=weight if subject or there else 2 * weight,
            rarity=EVENT_RARITY if subject and there else 1.0,
            slots=slots or {},
        )


def window_facts(
    r: Generator, events: tuple[SceneEvent, ...], start: float, end: float
) -> Iterator[Fact]:
    """Yield the yes/no facts of a window."""
    truths = _truths(events, start, end)
    yield from _yes_no_facts(phrasings.IS, truths, 4.0)
    if None in truths:
        yield from _yes_no_facts(phrasings.IS, {None: truths[None]}, 4.0)
    yield from _yes_no_facts(phrasings.FREE, truths, yes=False)
    for kind in EventKind:
        yield from _place_facts(r, [e for e in events if e.kind is kind], kind, start, end)


def _place_facts(
    r: Generator, events: Sequence[SceneEvent], kind: EventKind, start: float, end: float
) -> Iterator[Fact]:
    """Yield in which third an event is and is not, if that is clear."""
    places = {_place(event) for event in _visible(events, start, end)}
    if kind in MOVING_KINDS or "" in places or not _is_clear(events, start, end):
        return
    others = [place for place in PLACES if place not in places]
    for place in [*places, *(r.permutation(others)[:1])]:
        said = PLACES[place][int(r.integers(len(PLACES[place])))]
        yield Fact(
            asks=phrasings.PLACED[kind],
            answer=prompt.YES if place in places else prompt.NO,
            is_present=bool(places),
            weight=1.5 if places else 0.3,
            slots={"place": said},
        )


def past_facts(
    r: Generator, events: tuple[SceneEvent, ...], start: float, end: float, offset: float
) -> Iterator[Fact]:
    """Yield the yes/no facts of the time up to `end`, or of a part of it."""
    yield from _yes_no_facts(phrasings.EVER, _truths(events, 0, end))
    if start > 0:
        yield from _yes_no_facts(phrasings.BEFORE, _truths(events, 0, start))
    t = int(r.integers(floor(offset) + 1, max(floor(offset + end), floor(offset) + 2)))
    for asks, span in ((phrasings.UNTIL, (0, t - offset)), (phrasings.AFTER, (t - offset, end))):
        yield from _yes_no_facts(asks, _truths(events, *span), 0.5, slots={"t": t})


def _people(scene: KnownScene, end: float) -> list[int]:
    return [scene.people(max(0.0, end - 1 - nth)) for nth in range(COUNTED_STILLS)]


def people_facts(r: Generator, scene: KnownScene, end: float) -> Iterator[Fact]:
    """Yield the yes/no facts about the people at `end`, if they are clear."""
    many = _people(scene, end)
    least, most = min(many), max(many)
    if least or not most:
        answer = prompt.YES if least else prompt.NO
        yield Fact(
            asks=phrasings.ANYBODY, answer=answer, is_present=least > 0, weight=1 if least else 3
        )
    for asks, more in ((phrasings.MORE, True), (phrasings.FEWER, False)):
        off, lowest = int(r.integers(1, 4)), 1 if more else 2
        below = least > lowest and r.random() < 0.75
        limit = max(lowest, least - off) if below else max(lowest, most + off)
        answer = prompt.YES if below is more else prompt.NO
        yield Fact(asks=asks, answer=answer, is_present=least > 0, slots={"many": limit})


def people_count_facts(scene: KnownScene, end: float) -> Iterator[Fact]:
    """Yield how many people there are at `end`, if it is clear."""
    answers = {str(count) if count < 10 else MANY for count in _people(scene, end)}
    if len(answers) == 1:
        (answer,) = answers
        yield Fact(asks=phrasings.HOW_MANY, answer=answer, is_present=answer != "0", weight=2)


def when_facts(events: tuple[SceneEvent, ...], end: float, offset: float) -> Iterator[Fact]:
    """Yield from when to when each kind of event was seen, if it was once and not briefly."""
    for kind, asks in phrasings.WHEN.items():
        own = [e for e in events if e.kind is kind and _shared(e, 0, end) > 0]
        if not own:
            yield Fact(asks=asks, answer=NEVER, is_present=False, weight=0.4)
        elif len(own) == 1 and _visible(own, 0, end):
            yield Fact(
                asks=asks, answer=_format_span(own[0], end, offset), is_present=True, weight=2
            )


def _format_span(event: SceneEvent, end: float, offset: float) -> str:
    """Write when an event was seen."""
    first, last = _rounded_inwards(max(event.start, 0) + offset, min(event.end, end) + offset, 1)
    return f"{first:.1f}s - {last:.1f}s"


def _rounded_inwards(first: float, last: float, digits: int) -> tuple[float, float]:
    """Round a span inwards to a number of decimals."""
    unit = 10.0**digits
    # Rounded beforehand, for 12.3 is not quite 12.3.
    return ceil(round(unit * first, 6)) / unit, floor(round(unit * last, 6)) / unit


def where_facts(events: tuple[SceneEvent, ...], start: float, end: float) -> Iterator[Fact]:
    """Yield the place in the picture of each kind of event in a window, if it is clear."""
    for kind, asks in phrasings.WHERE.items():
        own = [e for e in events if e.kind is kind and _shared(e, start, end) > 0]
        place = _place(own[0]) if len(own) == 1 and _visible(own, start, end) else ""
        if kind and kind not in MOVING_KINDS and (place or not own):
            weight = 1.5 if place else 0.2
            yield Fact(asks=asks, answer=place or NOWHERE, is_present=bool(place), weight=weight)


def what_facts(
    r: Generator, events: tuple[SceneEvent, ...], start: float, end: float, offset: float
) -> Iterator[Fact]:
    """Yield descriptions of a window and of a span, if they are short."""
    begin = max(0.0, float(r.uniform(-4, end - 4)))
    finish = min(begin + float(r.uniform(6, 40)), end)
    # Whole seconds half of the time, as a person would ask.
    asked = _rounded_inwards(begin + offset, finish + offset, digits=int(r.integers(2)))
    spans = (
        (phrasings.WHAT, start, end),
        (phrasings.WHAT_BETWEEN, asked[0] - offset, asked[1] - offset),
    )
    for asks, first, last in spans:
        if _is_clear(events, first, last) and len(_visible(events, first, last)) <= MAX_CAPTIONED:
            text = caption(events, first, last)
            slots = {"start": asked[0], "end": asked[1]}
            yield Fact(asks=asks, answer=text, is_present=text != NOTHING, weight=2, slots=slots)
