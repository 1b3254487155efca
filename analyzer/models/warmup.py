"""The largest pass of each kind before the first window: are its results finite, and its bytes?

A computed budget does not include the workspace of kernels, and float16 overflows with some
weights: both show in a pass of the largest size.

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
"""Chunks of each memory that a warm-up writes to an arena."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpWorkload:
    """The inputs of the largest passes: full memories of `shapes`, and a camera's questions.

    `look_backs` are the contexts of the questions; all questions of one share a pass.
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
    """Run the largest passes: encode random stills, prefill them into full memories, score.

    Return the extra bytes of a CUDA device at the peak, 0 elsewhere; all free bytes if a pass
    did not fit. Raises ModelUnusable if results are not finite in any precision.
    """
    passes = _WarmUpPasses(runner, workload)
    try:
        return measure_peak(runner.model.device, passes.run)
    except Unreadable as error:
        dtype = str(runner.dtype).removeprefix("torch.")
        reason = f"{runner.name}: computes NaN or infinity in {dtype}: the weights may be damaged"
        raise ModelUnusable(reason) from error


class _WarmUpPasses:
    """The passes of a warm-up, each on the results of the one before it."""

    def __init__(self, runner: ModelRunner, workload: WarmUpWorkload) -> None:
        self._runner = runner
        self._workload = workload

    def run(self) -> None:
        """Run all passes; raises Unreadable if a result is not finite."""
        tokens_GVE = self._encode()
        chunk, contexts = self._contexts(tokens_GVE)
        self._prefill(tokens_GVE, contexts)
        scores = [*self._score(chunk), *self._score_reply(contexts[0])]
        if not all(isfinite(margin) for each in scores for margin in each.margins):
            raise Unreadable(NOT_FINITE)

    def _encode(self) -> Tensor:
        """Encode the windows of a full step; return the visual tokens of one."""
        config, largest = self._runner.model.config, self._workload.largest
        jpegs = [_random_still(config.height, config.width)] * largest.stills
        encoded = self._runner.encode([WindowRun([jpegs])] * self._workload.memories)
        return encoded[0][0].tokens_GVE

    def _contexts(self, tokens_GVE: Tensor) -> tuple[AnyChunk, list[list[AnyChunk]]]:
        """Return a chunk, and a context for each memory.

        In an arena the bytes of a pass do not depend on the context: a few chunks are enough.
        """
        memories = self._workload.memories
        if self._runner.arena_decoder is None:
            (chunk,) = self._prefill(tokens_GVE, [[]])
            return chunk, [self._full_context(chunk, timedelta.max)] * memories
        contexts: list[list[AnyChunk]] = [[] for _ in range(memories)]
        for _ in range(min(self._workload.plan.recent, ARENA_WARM_UP_CHUNKS)):
            made = self._prefill(tokens_GVE, contexts)
            contexts = [[*own, chunk] for own, chunk in zip(contexts, made, strict=True)]
        return contexts[0][-1], contexts

    def _prefill(
        self, tokens_GVE: Tensor, contexts: Sequence[Sequence[AnyChunk]]
    ) -> list[AnyChunk]:
        """Prefill a window against each context, with the longest timestamps."""
        latest, groups = self._workload.plan.epoch.total_seconds(), len(tokens_GVE)
        stills = self._runner.model.config.stills_per_group
        seconds = [latest - stills * (groups - nth) for nth in range(groups)]
        return self._runner.prefill(
            [WindowToRemember(tokens_GVE, seconds, context) for context in contexts]
        )

    def _score(self, chunk: AnyChunk) -> list[YesNoScores]:
        """Score all questions of all memories, over every look-back."""
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
        """Score the largest pass of the reply to a person."""
        contexts = min(REPLY_MAX_CONTEXTS, max(1, REPLY_MAX_TOKENS // sum(map(len, context))))
        return self._runner.score([ScoreInput(self._workload.asks[:1], context)] * contexts)

    def _full_context(self, chunk: AnyChunk, look_back: timedelta) -> list[AnyChunk]:
        """Return a full context within `look_back`, its recent and focused chunks dense."""
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
    """Return the extra bytes of a CUDA device at the peak of work, 0 elsewhere.

    If it does not fit these are all free bytes. Raises ModelUnusable if the GPU fails.
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
