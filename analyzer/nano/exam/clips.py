"""Clips that were never trained on, and what the model says of one at its end.

A clip lasts three windows and is judged at the end of the last. As in the lessons, a scene that
shows an event for less than two seconds of that window is passed over, for neither answer would
be right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import thread_time

import numpy as np
from numpy.random import default_rng
from torch import Tensor

from analyzer.nano.exam.baselines import features, motion
from analyzer.nano.exam.measures import iou
from analyzer.nano.lessons import (
    ABOUT,
    ABOUT_UNSEEN,
    ANYTHING,
    ANYTHING_UNSEEN,
    NAMES,
    VISIBLE,
    seen,
)
from analyzer.nano.scenes import Kind, Light, Scene, random_scene
from analyzer.spans import seen_in
from analyzer.videoxl2 import moments
from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.decoding import decode
from analyzer.videoxl2.moments import Moment
from analyzer.videoxl2.speaker import Speaker

FRESH = 1_000_000_000
"""Seeds from here on are never trained on, and nothing is chosen by them: they are reported."""
CHOOSING, FITTING = 900_000_000, 800_000_000
"""Seeds from here on are not trained on either: to choose by, and to fit the baseline to."""
SPAN = 1_000_000
"""So many seeds belong to each `--seed`."""
WINDOW, WINDOWS, RATE = 16, 3, 0.45
SECONDS = WINDOW * WINDOWS
HEIGHT, QUALITY = 256, 85
SEEN, UNSEEN = 3, 2
"""So many phrasings of each question are asked; the first is the canonical one."""
ASKS = tuple(
    (*trained[:SEEN], *untrained[:UNSEEN])
    for trained, untrained in (
        (ANYTHING, ANYTHING_UNSEEN),
        *((ABOUT[kind], ABOUT_UNSEEN[kind]) for kind in Kind),
    )
)
"""The phrasings of each question: of "is anything unusual?", then of each kind."""
_LIGHTS = (None, Light.DAY, None, Light.NIGHT, None, Light.INFRARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A clip as read; milliseconds of one core a still, for JPEGs and for vision and prefill."""

    chunks: tuple[Form, ...]
    stills_NHWC: np.ndarray
    """The last window, as the tower gets it."""
    decoding: float
    reading: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How right it was about the span of an event: IoU, or 1 for a true "never".

    `right` goes by the answers at the end of each window, as `longwatch ask` does; `in_words` by
    the span that the model writes when it is asked for one.
    """

    kind: Kind
    happened: bool
    right: float
    in_words: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is true of a clip, first of anything and then of each kind, and what was said."""

    truths: tuple[bool, ...]
    margins: tuple[tuple[float, ...], ...]
    """By question, then by phrasing."""
    told: tuple[Told, ...]
    motion: float
    features_F: Tensor
    decoding: float
    reading: float
    light: Light | None


def fresh_scenes(first: int = FRESH, light: Light | None = None) -> Iterator[Scene]:
    """Yield scenes in which it is clear what can be seen; without `light`, of all lights."""
    for n, seed in enumerate(count(first)):
        scene = random_scene(seed, SECONDS, rate=RATE, light=light or _LIGHTS[n % len(_LIGHTS)])
        if all(s >= VISIBLE for s in seen(scene.events, SECONDS - WINDOW, SECONDS).values()):
            yield scene


def truths_of(scene: Scene) -> tuple[bool, ...]:
    """Return whether anything, and each kind, is seen in the last window of a clip."""
    present = seen(scene.events, SECONDS - WINDOW, SECONDS)
    return bool(present), *(kind in present for kind in Kind)


def stills_of(scene: Scene, start: int = 0, end: int = SECONDS) -> list[bytes]:
    """Return a still a second as a camera would send it."""
    return [scene.jpeg(float(t), HEIGHT, QUALITY) for t in range(start, end)]


def look(speaker: Speaker, jpegs: Sequence[bytes]) -> Looked:
    """Read stills window by window, through the same path as live video."""
    config, chunks, background = speaker.model.config, list[Form](), None
    decoding = reading = 0.0
    for start in range(0, len(jpegs), WINDOW):
        window = jpegs[start : start + WINDOW]
        began = thread_time()
        stills_NHWC, _ = decode(window, config.height, config.width)
        decoded = thread_time() - began
        seconds = range(start, start + len(window))
        chunk, background = speaker.watch(window, seconds, background, chunks)
        chunks.append(chunk)
        decoding += decoded
        reading += thread_time() - began - decoded  # threads decode them once more
    a_still = 1000 / len(jpegs)
    return Looked(
        chunks=tuple(chunks),
        stills_NHWC=stills_NHWC,
        decoding=decoding * a_still,
        reading=reading * a_still,
    )


def watch(speaker: Speaker, scene: Scene, windows: int = WINDOWS) -> list[float]:
    """Return the margins, anything first and then each kind, at the end of the windows."""
    looked = look(speaker, stills_of(scene, 0, windows * WINDOW))
    return speaker.margins([phrasings[0] for phrasings in ASKS], looked.chunks)


def judge(speaker: Speaker, scene: Scene) -> Judged:
    """Watch a scene, then ask all questions in all phrasings, and when things happened."""
    looked = look(speaker, stills_of(scene))
    told = tell(speaker, scene, looked.chunks)
    return ask(speaker, looked, truths_of(scene), told=told, light=scene.light)


def ask(
    speaker: Speaker,
    looked: Looked,
    truths: tuple[bool, ...],
    *,
    phrasings: int = SEEN + UNSEEN,
    told: tuple[Told, ...] = (),
    light: Light | None = None,
) -> Judged:
    """Ask each question in so many phrasings about the last window, all in one pass."""
    asks = [ask for own in ASKS for ask in own[:phrasings]]
    margins = speaker.margins(asks, looked.chunks)
    return Judged(
        truths=truths,
        margins=tuple(tuple(margins[q : q + phrasings]) for q in range(0, len(margins), phrasings)),
        told=told,
        motion=motion(looked.stills_NHWC),
        features_F=features(speaker, looked.stills_NHWC),
        decoding=looked.decoding,
        reading=looked.reading,
        light=light,
    )


def tell(speaker: Speaker, scene: Scene, chunks: Sequence[Form]) -> tuple[Told, ...]:
    """Ask when each event of a scene was, and when one was that was not.

    What is seen only briefly, or more than once, has no one span and is not asked about.
    """
    visible = seen(scene.events, 0, SECONDS)
    told = list[Told]()
    for kind, seconds in visible.items():
        spans = [
            _shown(e.start, e.end) for e in scene.events if e.kind is kind and e.start < SECONDS
        ]
        if len(spans) == 1 and seconds >= VISIBLE:
            told.append(_told(speaker, kind, chunks, spans[0]))
    absent = [kind for kind in Kind if kind not in visible]
    if absent:
        kind = absent[default_rng(scene.seed).integers(len(absent))]
        told.append(_told(speaker, kind, chunks, None))
    return tuple(told)


def _told(speaker: Speaker, kind: Kind, chunks: Sequence[Form], truth: Moment | None) -> Told:
    right = _overlap(_longest(speaker, ABOUT[kind][0], chunks), truth)
    try:
        in_words = _overlap(moments.when(speaker, NAMES[kind], chunks, _shown(0, SECONDS)), truth)
    except moments.Unclear:
        in_words = 0.0
    return Told(kind=kind, happened=truth is not None, right=right, in_words=in_words)


def _longest(speaker: Speaker, ask: str, chunks: Sequence[Form]) -> Moment | None:
    """Return the longest stretch for which the answer was yes, None where it never was."""
    margins = [speaker.margins([ask], chunks[: n + 1])[0] for n in range(len(chunks))]
    stretches = [
        Moment(
            start=began.window * WINDOW + began.group * STILLS_PER_GROUP,
            end=ended.window * WINDOW + (ended.group + 1) * STILLS_PER_GROUP,
        )
        for began, ended in seen_in(speaker, ask, margins, chunks.__getitem__)
    ]
    return max(stretches, key=lambda each: each.end - each.start, default=None)


def _overlap(found: Moment | None, truth: Moment | None) -> float:
    if found is None or truth is None:
        return float(found is truth)
    return iou(found, truth)


def _shown(start: float, end: float) -> Moment:
    return Moment(start=max(0.0, start), end=min(float(SECONDS), end))
