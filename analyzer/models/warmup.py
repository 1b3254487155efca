"""One pass of each kind before the first window: is all finite, and how much does it take?

A budget that is computed knows no kernel's own room, and float16 overflows for some weights:
both show in a pass of the largest size there will be.

Legend: G groups, V visual tokens of a group, E decoder width.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import isfinite
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analyzer.device import device_unusable, free_bytes
from analyzer.errors import ModelUnusable
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import (
    MAX_WINDOWS_PER_STEP,
    REPLY_MAX_CONTEXTS,
    REPLY_MAX_TOKENS,
    MemoryPlan,
    WindowShape,
)
from analyzer.models.messages import ScoreInput, WindowRun, WindowToRemember, YesNoScores
from analyzer.models.runner import NOT_FINITE, ModelRunner
from storage.errors import Unreadable

ARENA_WARM_UP_CHUNKS = 4
"""Chunks of a memory that a warm-up fills in an arena."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpWorkload:
    """What the largest passes hold: full memories of `shapes`, and a camera's questions.

    `reaches` are how far back the questions look; those of one reach are asked in one pass.
    """

    plan: MemoryPlan
    shapes: Sequence[WindowShape]
    asks: Sequence[str]
    look_backs: Sequence[timedelta]
    memories: int = MAX_WINDOWS_PER_STEP

    @property
    def largest(self) -> WindowShape:
        """Return the shape of the largest windows."""
        return max(self.shapes, key=lambda shape: shape.stills)


def warm_up(runner: ModelRunner, workload: WarmUpWorkload) -> int:
    """See, read and ask as much as one pass may hold, of random stills behind full memories.

    Return the bytes that it took of a CUDA device beside what was held before, 0 elsewhere; where
    it did not fit that is all that was free. Raises ModelUnusable where the model makes what is no
    number in any precision that it has.
    """
    passes = _WarmUpPasses(runner, workload)
    try:
        return measure_peak(runner.model.device, passes.run)
    except Unreadable as error:
        dtype = str(runner.dtype).removeprefix("torch.")
        reason = f"{runner.name}: gives what is no number as {dtype}: is it damaged?"
        raise ModelUnusable(reason) from error


class _WarmUpPasses:
    """The passes of a warm-up, each with what the one before it made."""

    def __init__(self, runner: ModelRunner, workload: WarmUpWorkload) -> None:
        self._runner = runner
        self._workload = workload

    def run(self) -> None:
        """Take all passes; raises Unreadable where one makes what is no number."""
        tokens_GVE = self._encode()
        chunk, contexts = self._contexts(tokens_GVE)
        self._prefill(tokens_GVE, contexts)
        scores = [*self._score(chunk), *self._score_reply(contexts[0])]
        if not all(isfinite(margin) for each in scores for margin in each.margins):
            raise Unreadable(NOT_FINITE)

    def _encode(self) -> Tensor:
        """Return the visual tokens of one window of as many as are seen at once."""
        config, largest = self._runner.model.config, self._workload.largest
        jpegs = [_random_still(config.height, config.width)] * largest.stills
        encoded = self._runner.encode([WindowRun([jpegs])] * self._workload.memories)
        return encoded[0][0].tokens_GVE

    def _contexts(self, tokens_GVE: Tensor) -> tuple[AnyChunk, list[list[AnyChunk]]]:
        """Return a chunk, and a memory for each lane.

        In an arena the length of a memory does not change what a pass takes: a few chunks will do.
        """
        memories = self._workload.memories
        if self._runner.arena_decoder is None:
            (chunk,) = self._prefill(tokens_GVE, [[]])
            return chunk, [self._full_context(chunk, timedelta.max)] * memories
        contexts: list[list[AnyChunk]] = [[] for _ in range(memories)]
        for _ in range(min(self._workload.plan.recent, ARENA_WARM_UP_CHUNKS)):
            made = self._prefill(tokens_GVE, contexts)
            contexts = [[*held, chunk] for held, chunk in zip(contexts, made, strict=True)]
        return contexts[0][-1], contexts

    def _prefill(
        self, tokens_GVE: Tensor, contexts: Sequence[Sequence[AnyChunk]]
    ) -> list[AnyChunk]:
        """Read a window behind each memory, with timestamps as long as they become."""
        latest, groups = self._workload.plan.epoch.total_seconds(), len(tokens_GVE)
        stills = self._runner.model.config.stills_per_group
        seconds = [latest - stills * (groups - nth) for nth in range(groups)]
        return self._runner.prefill(
            [WindowToRemember(tokens_GVE, seconds, context) for context in contexts]
        )

    def _score(self, chunk: AnyChunk) -> list[YesNoScores]:
        """Ask all questions of all lanes, as far back as any look."""
        if self._runner.arena_decoder is not None:
            one_each = [ScoreInput(self._workload.asks, [chunk])] * self._workload.memories
            return self._runner.score(one_each)
        first, *others = self._workload.look_backs
        inputs = [ScoreInput(self._workload.asks, self._full_context(chunk, first))]
        inputs += [
            ScoreInput(self._workload.asks[:1], self._full_context(chunk, look_back))
            for look_back in others
        ]
        return self._runner.score(inputs * self._workload.memories)

    def _score_reply(self, context: Sequence[AnyChunk]) -> list[YesNoScores]:
        """Ask of as much as the reply to a person lays out."""
        contexts = min(REPLY_MAX_CONTEXTS, max(1, REPLY_MAX_TOKENS // sum(map(len, context))))
        return self._runner.score([ScoreInput(self._workload.asks[:1], context)] * contexts)

    def _full_context(self, chunk: AnyChunk, look_back: timedelta) -> list[AnyChunk]:
        """Return a full memory as far back as `reach`: recent and focused chunks dense."""
        plan = self._workload.plan
        limited = replace(plan, horizon=min(plan.horizon, look_back))
        chunks = limited.max_chunks(self._workload.largest.length)
        dense = min(chunks, plan.recent + plan.focus)
        return [chunk.pooled(plan.compression)] * (chunks - dense) + [chunk] * dense


def _random_still(height: int, width: int) -> bytes:
    """Return a JPEG of noise."""
    file, levels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (height, width, 3))
    Image.fromarray(levels.astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def measure_peak(device: torch.device, work: Callable[[], object], cuda: Any = torch.cuda) -> int:
    """Return the bytes of a CUDA device that work takes at its peak, 0 elsewhere.

    Where it does not fit that is all that was free. Raises ModelUnusable where the card fails.
    """
    if device.type != "cuda":
        work()
        return 0
    cuda.empty_cache()
    free, held = free_bytes(device, cuda), cuda.memory_allocated(device)
    cuda.reset_peak_memory_stats(device)
    try:
        work()
        cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return free
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        raise device_unusable(device, error) from error
    peak: int = cuda.max_memory_allocated(device) - held
    cuda.empty_cache()
    return peak
