"""Clips that were never trained on, and the model's answers at the end of each.

A clip lasts three windows and is scored at the end of the last. As in the lessons, a scene that
shows an event for less than two seconds of that window is skipped: neither answer would be right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import thread_time

import numpy as np
from numpy.random import default_rng
from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk
from analyzer.models.runner import ModelRunner
from analyzer.models.spans import find_yes_spans
from analyzer.models.stills.decoding import decode_stills
from analyzer.models.videoxl2.config import STILLS_PER_GROUP
from analyzer.nano.workshop import moments
from analyzer.nano.workshop.exam.baselines import features, motion
from analyzer.nano.workshop.exam.measures import iou
from analyzer.nano.workshop.lessons.facts import MIN_VISIBLE_SECONDS, visible_seconds
from analyzer.nano.workshop.lessons.lessons import (
    ANOMALY_ASKS,
    KIND_ASKS,
    UNSEEN_ANOMALY_ASKS,
    UNSEEN_KIND_ASKS,
)
from analyzer.nano.workshop.lessons.phrasings import NAMES
from analyzer.nano.workshop.moments import SecondsSpan
from analyzer.nano.workshop.prefill import encode_and_prefill
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.renderer.sensor import Light
from analyzer.nano.workshop.scenes import RenderedScene, random_scene

FRESH_SEEDS = 1_000_000_000
"""Seeds from here on are never trained on, and nothing is chosen by them: they are reported."""
CHOOSING_SEEDS, FITTING_SEEDS = 900_000_000, 800_000_000
"""Seeds from here on are not trained on either: to choose by, and to fit the baseline to."""
SEEDS_PER_RUN = 1_000_000
"""Seeds per `--seed`."""
WINDOW, WINDOWS, RATE = 16, 3, 0.45
SECONDS = WINDOW * WINDOWS
HEIGHT, QUALITY = 256, 85
SEEN_PHRASINGS, UNSEEN_PHRASINGS = 3, 2
"""Phrasings per question; the first is the canonical one."""
ASKS = tuple(
    (*trained[:SEEN_PHRASINGS], *untrained[:UNSEEN_PHRASINGS])
    for trained, untrained in (
        (ANOMALY_ASKS, UNSEEN_ANOMALY_ASKS),
        *((KIND_ASKS[kind], UNSEEN_KIND_ASKS[kind]) for kind in EventKind),
    )
)
"""The phrasings of each question: of "is anything unusual?", then of each kind."""
_LIGHTS = (None, Light.DAY, None, Light.NIGHT, None, Light.INFRARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefilledClip:
    """A clip as read; milliseconds of one core a still, for JPEGs and for vision and prefill."""

    chunks: tuple[AnyChunk, ...]
    stills_NHWC: np.ndarray
    """The last window, as the tower gets it."""
    decoding_ms: float
    prefill_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanScore:
    """How right it was about the span of an event: IoU, or 1 for a true "never".

    `right` goes by the answers at the end of each window, as `longwatch ask` does; `in_words` by
    the span that the model writes when it is asked for one.
    """

    kind: EventKind
    happened: bool
    overlap: float
    overlap_in_words: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswers:
    """The truth of a clip, first of anything and then of each kind, and the answers."""

    truths: tuple[bool, ...]
    margins: tuple[tuple[float, ...], ...]
    """By question, then by phrasing."""
    spans: tuple[SpanScore, ...]
    motion: float
    features_F: Tensor
    decoding_ms: float
    prefill_ms: float
    light: Light | None


def fresh_scenes(first: int = FRESH_SEEDS, light: Light | None = None) -> Iterator[RenderedScene]:
    """Yield scenes with clearly visible or no events; without `light`, of all lights."""
    for n, seed in enumerate(count(first)):
        scene = random_scene(seed, SECONDS, rate=RATE, light=light or _LIGHTS[n % len(_LIGHTS)])
        if all(
            s >= MIN_VISIBLE_SECONDS
            for s in visible_seconds(scene.events, SECONDS - WINDOW, SECONDS).values()
        ):
            yield scene


def truths_of(scene: RenderedScene) -> tuple[bool, ...]:
    """Return whether anything, and each kind, is seen in the last window of a clip."""
    present = visible_seconds(scene.events, SECONDS - WINDOW, SECONDS)
    return bool(present), *(kind in present for kind in EventKind)


def stills_of(scene: RenderedScene, start: int = 0, end: int = SECONDS) -> list[bytes]:
    """Return a still a second as a camera would send it."""
    return [scene.jpeg(float(t), HEIGHT, QUALITY) for t in range(start, end)]


def prefill_clip(runner: ModelRunner, jpegs: Sequence[bytes]) -> PrefilledClip:
    """Read stills window by window, through the same path as live video."""
    config, chunks, background = runner.model.config, list[AnyChunk](), None
    decoding = reading = 0.0
    for start in range(0, len(jpegs), WINDOW):
        window = jpegs[start : start + WINDOW]
        began = thread_time()
        stills_NHWC, _ = decode_stills(window, config.height, config.width)
        decoded = thread_time() - began
        seconds = range(start, start + len(window))
        chunk, background = encode_and_prefill(runner, window, seconds, background, chunks)
        chunks.append(chunk)
        decoding += decoded
        reading += thread_time() - began - decoded  # threads decode them once more
    a_still = 1000 / len(jpegs)
    return PrefilledClip(
        chunks=tuple(chunks),
        stills_NHWC=stills_NHWC,
        decoding_ms=decoding * a_still,
        prefill_ms=reading * a_still,
    )


def scene_margins(runner: ModelRunner, scene: RenderedScene, windows: int = WINDOWS) -> list[float]:
    """Return the margins, anything first and then each kind, at the end of the windows."""
    clip = prefill_clip(runner, stills_of(scene, 0, windows * WINDOW))
    return runner.margins([phrasings[0] for phrasings in ASKS], clip.chunks)


def examine_scene(runner: ModelRunner, scene: RenderedScene) -> ClipAnswers:
    """Watch a scene, then ask all questions in all phrasings, and when things happened."""
    clip = prefill_clip(runner, stills_of(scene))
    spans = score_spans(runner, scene, clip.chunks)
    return ask_clip(runner, clip, truths_of(scene), spans=spans, light=scene.light)


def ask_clip(
    runner: ModelRunner,
    clip: PrefilledClip,
    truths: tuple[bool, ...],
    *,
    phrasings: int = SEEN_PHRASINGS + UNSEEN_PHRASINGS,
    spans: tuple[SpanScore, ...] = (),
    light: Light | None = None,
) -> ClipAnswers:
    """Score each question in several phrasings on the last window, all in one pass."""
    asks = [ask_clip for own in ASKS for ask_clip in own[:phrasings]]
    margins = runner.margins(asks, clip.chunks)
    return ClipAnswers(
        truths=truths,
        margins=tuple(tuple(margins[q : q + phrasings]) for q in range(0, len(margins), phrasings)),
        spans=spans,
        motion=motion(clip.stills_NHWC),
        features_F=features(runner, clip.stills_NHWC),
        decoding_ms=clip.decoding_ms,
        prefill_ms=clip.prefill_ms,
        light=light,
    )


def score_spans(
    runner: ModelRunner, scene: RenderedScene, chunks: Sequence[AnyChunk]
) -> tuple[SpanScore, ...]:
    """Ask when each event of a scene was, and when an absent one was.

    An event that is seen briefly or more than once has no single span and is not asked about.
    """
    visible = visible_seconds(scene.events, 0, SECONDS)
    scores = list[SpanScore]()
    for kind, seconds in visible.items():
        spans = [
            _within_clip(e.start, e.end)
            for e in scene.events
            if e.kind is kind and e.start < SECONDS
        ]
        if len(spans) == 1 and seconds >= MIN_VISIBLE_SECONDS:
            scores.append(_score_span(runner, kind, chunks, spans[0]))
    absent = [kind for kind in EventKind if kind not in visible]
    if absent:
        kind = absent[default_rng(scene.seed).integers(len(absent))]
        scores.append(_score_span(runner, kind, chunks, None))
    return tuple(scores)


def _score_span(
    runner: ModelRunner, kind: EventKind, chunks: Sequence[AnyChunk], truth: SecondsSpan | None
) -> SpanScore:
    right = _overlap(_longest_yes(runner, KIND_ASKS[kind][0], chunks), truth)
    try:
        in_words = _overlap(
            moments.ask_when(runner, NAMES[kind], chunks, _within_clip(0, SECONDS)), truth
        )
    except moments.UnclearAnswer:
        in_words = 0.0
    return SpanScore(
        kind=kind, happened=truth is not None, overlap=right, overlap_in_words=in_words
    )


def _longest_yes(runner: ModelRunner, ask: str, chunks: Sequence[AnyChunk]) -> SecondsSpan | None:
    """Return the longest span of yes, None if there is none."""
    margins = [runner.margins([ask], chunks[: n + 1])[0] for n in range(len(chunks))]
    stretches = [
        SecondsSpan(
            start=began.window * WINDOW + began.group * STILLS_PER_GROUP,
            end=ended.window * WINDOW + (ended.group + 1) * STILLS_PER_GROUP,
        )
        for began, ended in find_yes_spans(runner, ask, margins, chunks.__getitem__)
    ]
    return max(stretches, key=lambda each: each.end - each.start, default=None)


def _overlap(found: SecondsSpan | None, truth: SecondsSpan | None) -> float:
    if found is None or truth is None:
        return float(found is truth)
    return iou(found, truth)


def _within_clip(start: float, end: float) -> SecondsSpan:
    return SecondsSpan(start=max(0.0, start), end=min(float(SECONDS), end))
