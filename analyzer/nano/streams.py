"""What nano is taught with: batches of rendered streams with their labels and questions.

Legend: B streams, W windows of a stream, N stills, G groups, L labels, K kinds, Q questions of
a window, A tokens of a question with its padding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator, default_rng
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import IterableDataset

from analyzer.nano.lessons import Lesson, lessons
from analyzer.nano.scenes import ASPECT, Event, Kind, Scene, random_scene
from analyzer.videoxl2 import prompt
from analyzer.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.videoxl2.vision import decode, follow, normalise

WINDOW = 16
"""Stills, and at one a second seconds, of a window."""
QUESTIONS, ANSWER_ROOM = 6, 20
LABELS = {
    "person": 8.0,
    "lying": 40.0,
    "hitting": 40.0,
    "bag": 40.0,
    "fire": 40.0,
    "vehicle": 20.0,
    "against": 40.0,
    "intruder": 30.0,
}
"""What may stand in a patch, and how much more a patch with it weighs than one without."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams with their labels; all streams start at the same second of the epoch."""

    pixels_BNCHW: Tensor
    marks_BNLhw: Tensor
    kinds_BGK: Tensor
    asks_BWQA: Tensor
    ends_BWQ: Tensor
    answers_BWQ: Tensor
    start: float


def photograph(r: Generator, scene: Scene, times: np.ndarray, config: VideoXL2Config) -> Tensor:
    """Return the stills as the tower gets them: through JPEG, squashed, with differences."""
    height = 128 if r.random() < 0.8 else 256
    quality = int(r.uniform(60, 96))
    jpegs = [scene.jpeg(float(t), height, quality) for t in times]
    pixels = normalise(decode(jpegs, config.height, config.width)[0])
    return torch.cat([pixels, 3 * follow(None, pixels)[0]], dim=1)


def mark(scene: Scene, times: np.ndarray, config: VideoXL2Config) -> Tensor:
    """Return (N, labels, h, w): what stands in which patch."""
    rows, columns = config.grid
    labels = list(LABELS)
    marks = torch.zeros(len(times), len(LABELS), rows, columns)
    for n, t in enumerate(times):
        for label, x, y in scene.marks(float(t)):
            row, column = math.floor(y * rows), math.floor(x / ASPECT * columns)
            if 0 <= row < rows and 0 <= column < columns:
                marks[n, labels.index(label), row, column] = 1
                if label == "person" and _inside(scene, x, y):
                    marks[n, labels.index("intruder"), row, column] = 1
    return marks


def _inside(scene: Scene, x: float, y: float) -> bool:
    zone = scene.place.zone
    return zone is not None and zone[0] <= x <= zone[2] and zone[1] - 0.12 <= y <= zone[3]


def kinds_of(events: tuple[Event, ...], groups: int) -> Tensor:
    """Return (G, kinds): what happens during which group."""
    kinds = torch.zeros(groups, len(Kind))
    for event in events:
        first = max(0, int(event.start // STILLS_PER_GROUP))
        last = int(event.end // STILLS_PER_GROUP)
        kinds[first : last + 1, list(Kind).index(event.kind)] = 1
    return kinds


def shape(step: int, steps: int) -> tuple[int, int]:
    """Return (streams, windows) of a step: first many places, then longer and longer streams."""
    done = step / steps
    if done < 0.35:
        return 8, 1
    return (4, 2) if done < 0.75 else (2, 4)


class Streams(IterableDataset[Batch]):
    """Batches without end, each a pure function of its number."""

    def __init__(
        self, config: VideoXL2Config, tokenizer: Tokenizer, first: int, steps: int
    ) -> None:
        self.config, self.tokenizer, self.first, self.steps = config, tokenizer, first, steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.first, self.steps):
            yield self.batch(step, *shape(step, self.steps))

    def batch(self, step: int, streams: int, windows: int) -> Batch:
        """Return the batch of a step."""
        parts = [self._stream(step * 8 + nth, windows) for nth in range(streams)]
        pixels, marks, kinds, asks, ends, answers = (
            torch.stack(tensors) for tensors in zip(*parts, strict=True)
        )
        start = round(float(default_rng(step).uniform(0, 3500)), 1)
        return Batch(pixels, marks, kinds, asks, ends, answers, start)

    def _stream(self, seed: int, windows: int) -> tuple[Tensor, ...]:
        r = default_rng((seed, 1))
        scene = random_scene(seed, windows * WINDOW, rate=0.75)
        times = np.arange(windows * WINDOW) + r.uniform(0, 1)
        rows = [
            self._encode(list(lessons(r, scene.events, w * WINDOW, (w + 1) * WINDOW, QUESTIONS)))
            for w in range(windows)
        ]
        asks, ends, answers = (torch.tensor(column) for column in zip(*rows, strict=True))
        return (
            photograph(r, scene, times, self.config),
            mark(scene, times, self.config),
            kinds_of(scene.events, len(times) // STILLS_PER_GROUP),
            asks,
            ends,
            answers,
        )

    def _encode(self, asked: list[Lesson]) -> tuple[list[list[int]], list[int], list[int]]:
        """Return token ids, the place of the last token, and the answer's id (-100: none)."""
        asks, ends, answers = [], [], []
        for lesson in asked:
            ids = self.tokenizer.encode(prompt.question(lesson.ask)).ids
            asks.append(ids + [0] * (ANSWER_ROOM - len(ids)))
            ends.append(len(ids) - 1)
            word = prompt.YES if lesson.yes else prompt.NO
            answers.append(self.tokenizer.encode(word).ids[0])
        missing = QUESTIONS - len(asked)
        return (
            asks + [[0] * ANSWER_ROOM] * missing,
            ends + [0] * missing,
            answers + [-100] * missing,
        )
