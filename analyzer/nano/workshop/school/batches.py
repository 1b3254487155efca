"""Training batches of nano: rendered streams with their labels and questions.

Legend: B streams, W windows of a stream, N stills, G groups, L labels, h w rows and columns of
patches, u v rows and columns of visual tokens.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.random import Generator, default_rng
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch import Tensor

from analyzer.models.videoxl2 import prompt
from analyzer.models.videoxl2.config import STILLS_PER_GROUP, VideoXL2Config
from analyzer.models.videoxl2.vision import normalise, subtract_background
from analyzer.nano.workshop.lessons.lessons import Lesson, worded_lessons, yes_no_lessons
from analyzer.nano.workshop.scenes import random_scene
from analyzer.nano.workshop.school.reels import LABELS, RATE, Reel, load_or_render, outline_of

ENCODED_FOLDER = "seen"
"""The folder of the synthesis outputs of each reel."""
WINDOW = 16
"""Stills, and at one a second seconds, of a window."""
VISION_STILLS = 32
"""Stills of a reel that are looked at in one step of seeing."""
FIRST_REELS = 150
"""Reels that seeing begins with; each step adds one."""
SPEAK_MIX, CAPTION_MIX, INSTRUCT_MIX = (5, 1), (4, 4), (9, 1)
"""Questions after each window: answered with yes or no, and in words."""
OUTLINE_SEEDS = 1 << 29
"""Seeds from here on are never rendered: training uses only the facts of the scene."""


@dataclass(frozen=True, slots=True)
class TokenizedLesson:
    """Token ids of a question and its answer; `is_word` if that is more than yes or no."""

    question: list[int]
    answer: list[int]
    is_word: bool
    rarity: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Streams with their labels; all start at the same second of the epoch.

    Unused fields are empty: `pixels_BNCHW` and `patches_BNLhw` train the tower, `merged_BGChw` is
    the output of the synthesis. `asks` are the questions of each stream after each window.
    """

    pixels_BNCHW: Tensor
    patches_BNLhw: Tensor
    tokens_BGLuv: Tensor
    lessons: list[list[list[TokenizedLesson]]]
    start: float
    merged_BGChw: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How a reel is varied: a part of the picture, mirrored or not, in other colours."""

    left: float
    top: float
    size: float
    mirrored: bool
    levels: np.ndarray
    order: tuple[int, ...]
    grey: bool

    @classmethod
    def random(cls, r: Generator, taken: Reel) -> Self:
        """Return a view that shows all events of the reel."""
        size = r.uniform(0.8, 1) if r.random() < 0.6 else 1.0
        left, top = r.uniform(0, 1 - size, 2)
        at = np.array([(event.x, event.y) for event in taken.events]).reshape(-1, 2)
        if (abs(((at - (left, top)) / size) - 0.5) > 0.42).any():
            left, top, size = 0.0, 0.0, 1.0
        gain = r.uniform(0.75, 1.3) * r.uniform(0.88, 1.12, 3)
        curve = (np.arange(256) / 255) ** r.uniform(0.8, 1.25)
        levels = np.clip(255 * curve[:, None] * gain, 0, 255).astype(np.uint8)
        order = tuple(r.permutation(3).tolist()) if r.random() < 0.3 else (0, 1, 2)
        mirrored, grey = bool(r.random() < 0.5), bool(r.random() < 0.1)
        return cls(
            left=left, top=top, size=size, mirrored=mirrored, levels=levels, order=order, grey=grey
        )

    def still(self, jpeg: bytes, height: int, width: int) -> np.ndarray:
        """Return a still (height, width, 3) as this view shows it."""
        picture: Image.Image = Image.open(io.BytesIO(jpeg))
        w, h = picture.size
        box = self.left * w, self.top * h, (self.left + self.size) * w, (self.top + self.size) * h
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
        if self.mirrored:
            picture = ImageOps.mirror(picture)
        pixels = np.asarray(picture.convert("L").convert("RGB") if self.grey else picture)
        return np.stack([self.levels[pixels[..., c], n] for n, c in enumerate(self.order)], -1)

    def outline(self, known: Reel) -> Reel:
        """Return the facts of a reel as this view shows it."""
        marks = known.marks_M4.copy()
        marks[:, 2:] = (marks[:, 2:] - (self.left, self.top)) / self.size
        if self.mirrored:
            marks[:, 2] = 1 - marks[:, 2]
        marks = marks[((marks[:, 2:] > 0) & (marks[:, 2:] < 1)).all(1)]
        person = marks[marks[:, 1] == list(LABELS).index("person"), 0].astype(int)
        counts = np.bincount(person, minlength=len(known.counts_N))[: len(known.counts_N)]
        events = tuple(
            replace(event, x=1 - x if self.mirrored else x)
            for event in known.events
            for x in [(event.x - self.left) / self.size]
        )
        return Reel(jpegs=(), marks_M4=marks, counts_N=counts, events=events)


NO_AUGMENTATION = Augmentation(
    left=0.0,
    top=0.0,
    size=1.0,
    mirrored=False,
    levels=np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1),
    order=(0, 1, 2),
    grey=False,
)
"""A reel as it is."""


def label_grid(marks_M4: np.ndarray, stills: range, rows: int, columns: int) -> Tensor:
    """Return the count of each label per cell: (N, L, rows, columns)."""
    counts = np.zeros((len(stills), len(LABELS), rows, columns), np.float32)
    inside = marks_M4[(marks_M4[:, 0] >= stills.start) & (marks_M4[:, 0] < stills.stop)]
    still, label = inside[:, 0].astype(int) - stills.start, inside[:, 1].astype(int)
    row, column = (inside[:, 3] * rows).astype(int), (inside[:, 2] * columns).astype(int)
    np.add.at(counts, (still, label, row, column), 1)
    return torch.from_numpy(counts)


def group_labels(counts_NLhw: Tensor) -> Tensor:
    """Return the largest count of each label per cell over the stills of a group: (G, L, h, w)."""
    return counts_NLhw.unflatten(0, (-1, STILLS_PER_GROUP)).amax(1)


class BatchBuilder:
    """Makes batches, each a pure function of its number."""

    def __init__(
        self, config: VideoXL2Config, tokenizer: Tokenizer, folder: Path, reels: int
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.folder, self.reels = folder, reels

    def vision_batch(self, step: int, count: int) -> TrainingBatch:
        """Return parts of streams, to learn to see."""
        r = default_rng((step, 1))
        # So that one may begin while reels are still being rendered.
        there = min(self.reels, FIRST_REELS + step)
        parts = [self._vision_sample(r, there) for _ in range(count)]
        pixels, patches = (torch.stack(each) for each in zip(*parts, strict=True))
        return TrainingBatch(
            pixels_BNCHW=pixels,
            patches_BNLhw=patches,
            tokens_BGLuv=torch.zeros(0),
            lessons=[],
            start=0.0,
        )

    def outline_batch(self, step: int, count: int, windows: int) -> TrainingBatch:
        """Return the facts of scenes that are not rendered, to train the answers."""
        r, seconds = default_rng((step, 2)), windows * WINDOW
        known = [
            outline_of(random_scene(OUTLINE_SEEDS + 64 * step + n, seconds, rate=RATE), seconds)
            for n in range(count)
        ]
        return self._batch(r, known, SPEAK_MIX)

    def encoded_batch(self, step: int, count: int, mix: tuple[int, int]) -> TrainingBatch:
        """Return the outputs of the trained tower for reels, to train the answers."""
        r = default_rng((step, 4))
        paths = sorted((self.folder.parent / ENCODED_FOLDER).glob("*.pt"))
        chosen = [paths[int(r.integers(len(paths)))] for _ in range(count)]
        known = [
            NO_AUGMENTATION.outline(load_or_render(self.folder, int(path.stem))) for path in chosen
        ]
        merged = torch.stack([torch.load(path, weights_only=True).float() for path in chosen])
        return replace(self._batch(r, known, mix), merged_BGChw=merged)

    def plain_pixels(self, seed: int) -> Tensor:
        """Return the stills of a reel as they are, with their differences."""
        return self._pixels(load_or_render(self.folder, seed).jpegs, NO_AUGMENTATION)

    def _reel(self, r: Generator, there: int) -> Reel:
        return load_or_render(self.folder, int(r.integers(there)))

    def _vision_sample(self, r: Generator, there: int) -> tuple[Tensor, Tensor]:
        taken = self._reel(r, there)
        view = Augmentation.random(r, taken)
        first = int(r.choice([0, VISION_STILLS]))
        pixels = self._pixels(taken.jpegs[: first + VISION_STILLS], view)[first:]
        stills = range(first, first + VISION_STILLS)
        return pixels, label_grid(view.outline(taken).marks_M4, stills, *self.config.grid)

    def _pixels(self, jpegs: Sequence[bytes], view: Augmentation) -> Tensor:
        height, width = self.config.height, self.config.width
        stills_NHWC = np.stack([view.still(jpeg, height, width) for jpeg in jpegs])
        pixels = normalise(torch.from_numpy(stills_NHWC).permute(0, 3, 1, 2))
        return torch.cat([pixels, 3 * subtract_background(None, pixels)[0]], dim=1)

    def _batch(self, r: Generator, known: list[Reel], mix: tuple[int, int]) -> TrainingBatch:
        start = round(float(r.uniform(0, 3400)), 1)
        rows, columns = (side // self.config.pool for side in self.config.grid)
        seconds = len(known[0].counts_N)
        tokens = [
            group_labels(label_grid(k.marks_M4, range(seconds), rows, columns)) for k in known
        ]
        return TrainingBatch(
            pixels_BNCHW=torch.zeros(0),
            patches_BNLhw=torch.zeros(0),
            tokens_BGLuv=torch.stack(tokens),
            lessons=[
                [self._lessons(r, k, first, start, mix) for first in range(0, seconds, WINDOW)]
                for k in known
            ],
            start=start,
        )

    def _lessons(
        self, r: Generator, known: Reel, first: int, offset: float, mix: tuple[int, int]
    ) -> list[TokenizedLesson]:
        span, (yes_no, worded) = (float(first), float(first + WINDOW)), mix
        asked = yes_no_lessons(r, known, *span, offset=offset, count=yes_no)
        asked += worded_lessons(r, known, *span, offset=offset, count=worded)
        return [self._tokenized(lesson) for lesson in asked]

    def _tokenized(self, lesson: Lesson) -> TokenizedLesson:
        question: list[int] = self.tokenizer.encode(prompt.question_text(lesson.ask)).ids
        is_word = lesson.answer not in {prompt.YES, prompt.NO}
        words = lesson.answer + prompt.END if is_word else lesson.answer
        return TokenizedLesson(question, self.tokenizer.encode(words).ids, is_word, lesson.rarity)


class BatchDataset(torch.utils.data.IterableDataset[TrainingBatch]):
    """The batches of a stage from one step on."""

    def __init__(self, builder: BatchBuilder, stage: str, steps: range) -> None:
        self.builder, self.stage, self.steps = builder, stage, steps

    def __iter__(self) -> Iterator[TrainingBatch]:
        for step in self.steps:
            yield self.batch(step)

    def batch(self, step: int) -> TrainingBatch:
        """Return the batch of a step.

        Every fourth one to speak from is of longer streams. Among instructions every third one
        is of outlines: there are more of them than of reels.
        """
        if self.stage == "see":
            return self.builder.vision_batch(step, 4)
        if self.stage == "speak":
            return self.builder.outline_batch(step, *((4, 8) if step % 4 == 3 else (8, 4)))
        if self.stage == "instruct" and step % 3 == 2:
            return self.builder.outline_batch(step, 8, 4)
        return self.builder.encoded_batch(
            step, 8, CAPTION_MIX if self.stage == "caption" else INSTRUCT_MIX
        )
