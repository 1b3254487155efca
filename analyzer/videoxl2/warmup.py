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

from analyzer.errors import ModelUnusable
from analyzer.machine import free_on, unusable
from analyzer.plan import AT_ONCE, STEPS, TOGETHER, MemoryPlan, WindowShape
from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.speaker import NO_NUMBER, Run, Said, Speaker
from storage.errors import Unreadable

FEW = 4
"""Chunks of a memory that a warm-up fills in an arena."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the largest passes hold: full memories of `shapes`, and a camera's questions.

    `reaches` are how far back the questions look; those of one reach are asked in one pass.
    """

    plan: MemoryPlan
    shapes: Sequence[WindowShape]
    asks: Sequence[str]
    reaches: Sequence[timedelta]
    lanes: int = AT_ONCE

    @property
    def largest(self) -> WindowShape:
        """Return the shape of the largest windows."""
        return max(self.shapes, key=lambda shape: shape.stills)


def warm_up(speaker: Speaker, workload: Workload) -> int:
    """See, read and ask as much as one pass may hold, of random stills behind full memories.

    Return the bytes that it took of a CUDA device beside what was held before, 0 elsewhere; where
    it did not fit that is all that was free. Raises ModelUnusable where the model makes what is no
    number in any precision that it has.
    """
    passes = _Passes(speaker, workload)
    try:
        return peak_of(speaker.model.device, passes.run)
    except Unreadable as error:
        kind = str(speaker.dtype).removeprefix("torch.")
        told = f"{speaker.name}: gives what is no number as {kind}: is it damaged?"
        raise ModelUnusable(told) from error


class _Passes:
    """The passes of a warm-up, each with what the one before it made."""

    def __init__(self, speaker: Speaker, workload: Workload) -> None:
        self._speaker = speaker
        self._workload = workload

    def run(self) -> None:
        """Take all passes; raises Unreadable where one makes what is no number."""
        tokens_GVE = self._see()
        chunk, behinds = self._memories(tokens_GVE)
        self._read(tokens_GVE, behinds)
        told = [*self._ask(chunk), *self._reply(behinds[0])]
        if not all(isfinite(margin) for one in told for margin in one.margins):
            raise Unreadable(NO_NUMBER)

    def _see(self) -> Tensor:
        """Return the visual tokens of one window of as many as are seen at once."""
        config, largest = self._speaker.model.config, self._workload.largest
        jpegs = [_random_still(config.height, config.width)] * largest.stills
        seen = self._speaker.see([Run([jpegs])] * self._workload.lanes)
        return seen[0][0].tokens_GVE

    def _memories(self, tokens_GVE: Tensor) -> tuple[Form, list[list[Form]]]:
        """Return a chunk, and a memory for each lane.

        In an arena the length of a memory does not change what a pass takes: a few chunks will do.
        """
        lanes = self._workload.lanes
        if self._speaker.streams is None:
            (chunk,) = self._read(tokens_GVE, [[]])
            return chunk, [self._memory(chunk, timedelta.max)] * lanes
        behinds: list[list[Form]] = [[] for _ in range(lanes)]
        for _ in range(min(self._workload.plan.recent, FEW)):
            made = self._read(tokens_GVE, behinds)
            behinds = [[*held, chunk] for held, chunk in zip(behinds, made, strict=True)]
        return behinds[0][-1], behinds

    def _read(self, tokens_GVE: Tensor, behinds: Sequence[Sequence[Form]]) -> list[Form]:
        """Read a window behind each memory, with timestamps as long as they become."""
        latest, groups = self._workload.plan.epoch.total_seconds(), len(tokens_GVE)
        seconds = [latest - STILLS_PER_GROUP * (groups - nth) for nth in range(groups)]
        return self._speaker.read([(tokens_GVE, seconds, behind) for behind in behinds])

    def _ask(self, chunk: Form) -> list[Said]:
        """Ask all questions of all lanes, as far back as any look."""
        if self._speaker.streams is not None:
            return self._speaker.ask([(self._workload.asks, [chunk])] * self._workload.lanes)
        first, *others = self._workload.reaches
        asks = [(self._workload.asks, self._memory(chunk, first))]
        asks += [(self._workload.asks[:1], self._memory(chunk, reach)) for reach in others]
        return self._speaker.ask(asks * self._workload.lanes)

    def _reply(self, behind: Sequence[Form]) -> list[Said]:
        """Ask of as much as the reply to a person lays out."""
        views = min(STEPS, max(1, TOGETHER // sum(map(len, behind))))
        return self._speaker.ask([(self._workload.asks[:1], behind)] * views)

    def _memory(self, chunk: Form, reach: timedelta) -> list[Form]:
        """Return a full memory as far back as `reach`: recent and focused chunks dense."""
        plan = self._workload.plan
        seen = replace(plan, horizon=min(plan.horizon, reach))
        chunks = seen.chunks(self._workload.largest.length)
        dense = min(chunks, plan.recent + plan.focus)
        return [chunk.pooled(plan.compression)] * (chunks - dense) + [chunk] * dense


def _random_still(height: int, width: int) -> bytes:
    """Return a JPEG of noise."""
    file, levels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (height, width, 3))
    Image.fromarray(levels.astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def peak_of(device: torch.device, work: Callable[[], object], cuda: Any = torch.cuda) -> int:
    """Return the bytes of a CUDA device that work takes at its peak, 0 elsewhere.

    Where it does not fit that is all that was free. Raises ModelUnusable where the card fails.
    """
    if device.type != "cuda":
        work()
        return 0
    cuda.empty_cache()
    free, held = free_on(device, cuda), cuda.memory_allocated(device)
    cuda.reset_peak_memory_stats(device)
    try:
        work()
        cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return free
    except RuntimeError as error:
        if "CUDA error" not in str(error):
            raise
        raise unusable(device, error) from error
    peak: int = cuda.max_memory_allocated(device) - held
    cuda.empty_cache()
    return peak
