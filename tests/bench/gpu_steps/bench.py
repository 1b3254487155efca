"""What every step on a card needs: the device, the clock, the model, the ceilings.

Legend: N stills, C channels, H W pixels.
"""

import gc
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analyzer.models.runner import ModelRunner
from analyzer.models.videoxl2.config import VideoXL2Config
from bench.gpu_steps.footage import Jpeg, footage
from bench.gpu_steps.model import quiet, random_model, runner_of, tiny_shapes

if TYPE_CHECKING:
    from bench.gpu_steps.work import Work

Figures = dict[str, Any]
"""What a step found, as its line of JSON has it."""
PUBLISHED = "BAAI/Video-XL-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much a step does: on a card, or a trifle of it to see that it runs."""

    lanes: tuple[int, ...]
    memory: int
    still: tuple[int, int]
    warm: int
    rounds: int
    passes: int
    headline: int
    long: int
    small: int
    marks: tuple[int, ...]
    rolling: int
    horizon: int


FULL = Sizes(
    lanes=(8, 32),
    memory=4,
    still=(640, 360),
    warm=3,
    rounds=3,
    passes=100,
    headline=128,
    long=624,
    small=64,
    marks=(4, 37, 128, 225),
    rolling=14,
    horizon=37,
)
"""`memory`, `headline` to `small`, `rolling` and `horizon` count windows of 16 stills."""
TINY = Sizes(
    lanes=(2,),
    memory=1,
    still=(160, 90),
    warm=1,
    rounds=1,
    passes=3,
    headline=2,
    long=2,
    small=2,
    marks=(1, 3),
    rolling=7,
    horizon=2,
)


@dataclass(slots=True, kw_only=True)
class Ceilings:
    """What this device does at most, measured in this run; 0 where it was not."""

    flop_s: float = 0.0
    copy_bytes_s: float = 0.0


class NeedsCard(Exception):
    """A step that means nothing on a CPU."""


@dataclass(kw_only=True)
class Bench:
    """One run: where it computes, in what precision, until when, and what it has measured."""

    device: torch.device
    dtype: torch.dtype
    is_tiny: bool
    ends: float
    began: float = field(default_factory=time.monotonic)
    ceilings: Ceilings = field(default_factory=Ceilings)
    clock: Callable[[], float] = time.perf_counter
    wants_arena: bool = True

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Return the seconds left for all further steps."""
        return self.ends - time.monotonic()

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the precisions that are compared."""
        half = (torch.bfloat16,) if self.is_tiny else (torch.float16, torch.bfloat16)
        return torch.float32, *half

    @property
    def sizes(self) -> Sizes:
        return TINY if self.is_tiny else FULL

    @cached_property
    def config(self) -> VideoXL2Config:
        return self.published if not self.is_tiny else tiny_shapes(self.published)

    @property
    def published(self) -> VideoXL2Config:
        return VideoXL2Config.published(PUBLISHED)

    @property
    def jpeg(self) -> Jpeg:
        """Return the stills that cameras send."""
        return footage(*self.sizes.still)

    @cached_property
    def work(self) -> "Work":
        """Return the operations of each pass at these shapes."""
        from bench.gpu_steps.work import work_of

        return work_of(self.config)

    @cached_property
    def speaker(self) -> ModelRunner:
        """Return the model at its size with random weights, whose every answer is no."""
        return runner_of(quiet(random_model(self.config, self.dtype, self.device)))

    @property
    def total_memory(self) -> int:
        return torch.cuda.get_device_properties(self.device).total_memory

    def need_card(self) -> None:
        """Raise NeedsCard on a CPU."""
        if not self.is_cuda:
            raise NeedsCard

    def sync(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Return how long some work takes until the device has done it."""
        self.sync()
        began = self.clock()
        work()
        self.sync()
        return self.clock() - began

    @cached_property
    def arena_fault(self) -> str:
        """Return how the arena differs from the plain way on this device; empty if it does not."""
        from analyzer.models.selfcheck import arena_difference

        runner = self.speaker
        with torch.inference_mode():
            return arena_difference(runner.model, runner.prefix, proportional_attention=False)

    @property
    def uses_arena(self) -> bool:
        return self.wants_arena and not self.arena_fault

    def ms(self, work: Callable[[], object], repeat: int = 5, warm: int = 2) -> float:
        """Return the median milliseconds of some work."""
        for _ in range(warm):
            work()
        took = [self.seconds(work) for _ in range(repeat)]
        return round(1e3 * statistics.median(took), 3)

    def of_gemm(self, flop: float, seconds: float) -> float | None:
        """Return the share of the matrix product's rate, where that was measured in this run."""
        rate = self.ceilings.flop_s
        return round(flop / seconds / rate, 4) if rate and seconds else None

    def of_copy(self, read: float, seconds: float) -> float | None:
        """Return the share of the copy's rate at which some bytes were read."""
        rate = self.ceilings.copy_bytes_s
        return round(read / seconds / rate, 4) if rate and seconds else None

    def clear(self) -> None:
        """Let go of what is no longer used, and measure the peak of memory anew."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int | None:
        """Return the most bytes that were held on the card since `clear`."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else None

    def pixels(self, stills: int) -> Tensor:
        """Return random normalised stills (N, 3, H, W)."""
        shape = stills, 3, self.config.height, self.config.width
        return torch.rand(shape, device=self.device).mul_(2).sub_(1).to(self.dtype)

    def write(self, step: str, figures: Figures) -> None:
        """Print a line, and add it to $OUT/figures.jsonl where OUT is set."""
        at = round(time.monotonic() - self.began, 1)
        line = json.dumps({"step": step, "at": at, **figures}, default=str)
        print(line, flush=True)
        if folder := os.environ.get("OUT"):
            with (Path(folder) / "figures.jsonl").open("a") as file:
                file.write(line + "\n")


def giga(size: float | None) -> float | None:
    """Return bytes in GB."""
    return None if size is None else round(size / 1e9, 2)


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def keep_stdout_for_figures() -> None:
    """Send warnings of the product to stderr, where its logger is installed."""
    try:
        import structlog
    except ImportError:
        return
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
