"""What a camera remembers, in which form, and how many bytes that takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from math import ceil, sqrt
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from analyzer.kv.arena.slots import ArenaPlan
    from analyzer.kv.cache import KVChunk

ShapeOnlyChunkFactory: TypeAlias = "Callable[[int, timedelta], tuple[KVChunk, int]]"
"""Maps a number of stills and the latest timestamp to the largest chunk, on the meta device, and
the bytes of its visual tokens."""

MAX_WINDOWS_PER_STEP = 8
"""Most windows in one step."""
MAX_MEMORIES_PER_PASS = 2 * MAX_WINDOWS_PER_STEP
"""Most memories in one pass: each window of a step may be prefilled into two epochs."""
STAGED_MEMORIES = 4
"""Memories whose focused chunks fit into an arena at a time."""
REPLY_MAX_CONTEXTS, REPLY_MAX_TOKENS = 16, 2**14
"""Most contexts of one memory, and their most tokens, in one pass of the reply to a person."""
DEFAULT_EPOCH = timedelta(hours=1)
"""How long timestamps count by default, or twice the horizon if that is longer."""
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What the memory of one camera contains.

    The last `recent` chunks are dense on the model's device. Older ones are pooled there until
    `horizon`; their dense form is offloaded to the host, in eight bits with `int8`, until
    `focus_horizon`, and longer if a standing question found a chunk relevant. A question attends
    to `focus` of them in full. `compression` visual tokens are pooled into one, which weighs as
    many with `proportional_attention`. Timestamps restart every `epoch`.
    """

    horizon: timedelta = timedelta(seconds=64)
    focus_horizon: timedelta = timedelta(seconds=64)
    recent: int = 4
    focus: int = 4
    compression: int = 4
    proportional_attention: bool = False
    int8: bool = False
    epoch: timedelta = DEFAULT_EPOCH

    def __post_init__(self) -> None:
        if self.epoch < 2 * self.horizon:
            raise ValueError("an epoch must be at least twice as long as the horizon")

    @property
    def epoch_step(self) -> timedelta:
        """Return the time between the starts of two epochs of a camera."""
        return self.epoch - self.horizon

    def max_chunks(self, window: timedelta) -> int:
        """Return the most windows of a length that are remembered."""
        return ceil(self.horizon / window)

    def offloaded_chunks(self, window: timedelta) -> int:
        """Return the most windows of a length whose dense form is on the host."""
        late = min(self.max_chunks(window), self.focus_horizon // window + 1) - self.recent
        return max(0, late)

    @property
    def is_relevance_weighted(self) -> bool:
        """Return whether relevance decides how long a chunk stays dense on the host."""
        return self.focus > 0 and self.focus_horizon < self.horizon

    def epoch_origin(self, at: datetime, camera: str) -> datetime:
        """Return the instant from which the timestamps of a camera around `at` count.

        Origins are fixed steps of the clock, so that a rebuilt memory has the timestamps of the
        lost one. All times within the horizon are positive. A hash of the camera's name offsets
        the steps, so that cameras start their epochs one after another.
        """
        first = UNIX_EPOCH + _stagger_fraction(camera) * self.epoch_step
        return first + (at - first) // self.epoch_step * self.epoch_step - self.horizon

    def overlapping_memories(self, cameras: int) -> float:
        """Return a bound on the full memories that the next epochs of cameras take.

        During the last horizon of an epoch a camera fills the memory of the next one. With
        r = horizon / step that is r/2 of a memory on average, with a variance of r/3 - r^2/4;
        the bound is the mean and four standard deviations, at least one memory.
        """
        share = self.horizon / self.epoch_step
        spread = sqrt(cameras * (share / 3 - share**2 / 4))
        return min(float(cameras), max(1.0, cameras * share / 2 + 4 * spread))


def _stagger_fraction(camera: str) -> float:
    """Return a number from 0 to 1, a hash of a name."""
    return int.from_bytes(sha256(camera.encode()).digest()[:6]) / 2**48


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBytes:
    """Bytes by tier: dense on the device, dense on the host, pooled, and visual tokens."""

    recent: int = 0
    focus: int = 0
    gist: int = 0
    tokens: int = 0

    @property
    def total(self) -> int:
        """Return the bytes of all tiers."""
        return sum(getattr(self, tier.name) for tier in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowShape:
    """The number of stills in a camera's windows, and their length."""

    stills: int
    length: timedelta


def largest_budget(
    plan: MemoryPlan, shape_only_chunk: ShapeOnlyChunkFactory, shapes: Iterable[WindowShape]
) -> TierBytes:
    """Return the most bytes of a full memory of several cameras, tier by tier."""
    budgets = [
        camera_budget(
            plan, *shape_only_chunk(shape.stills, plan.epoch + shape.length), shape.length
        )
        for shape in shapes
    ]
    tiers = [tier.name for tier in fields(TierBytes)]
    return TierBytes(**{tier: max(getattr(each, tier) for each in budgets) for tier in tiers})


def camera_budget(
    plan: MemoryPlan, shape_only_chunk: KVChunk, visual_token_bytes: int, window: timedelta
) -> TierBytes:
    """Return the bytes of the full memory of a camera whose windows last `window`.

    `shape_only_chunk` is the largest chunk of a window, for example on the meta device, and
    `visual_token_bytes` the bytes of its visual tokens.
    """
    from analyzer.kv.int8 import Int8Chunk  # noqa: PLC0415  loads torch

    chunks = plan.max_chunks(window)
    older = Int8Chunk.quantise(shape_only_chunk) if plan.int8 else shape_only_chunk
    return TierBytes(
        recent=min(chunks, plan.recent) * shape_only_chunk.nbytes,
        focus=plan.offloaded_chunks(window) * older.nbytes,
        gist=chunks * shape_only_chunk.pooled(plan.compression).nbytes,
        tokens=chunks * visual_token_bytes,
    )


def total_budget(plan: MemoryPlan, camera: TierBytes, cameras: int) -> TierBytes:
    """Return the bytes of the full memories of cameras and of their next epochs.

    Two epochs of a camera share its visual tokens.
    """
    memories = cameras + plan.overlapping_memories(cameras)
    return TierBytes(
        recent=ceil(memories * camera.recent),
        focus=ceil(memories * camera.focus),
        gist=ceil(memories * camera.gist),
        tokens=cameras * camera.tokens,
    )


def arena_plan(
    plan: MemoryPlan,
    shape_only_chunk: ShapeOnlyChunkFactory,
    shapes: Iterable[WindowShape],
    slots: int,
) -> ArenaPlan:
    """Return the arena for the memories on the model's device, one in each slot.

    A slot has room for one more window and an eighth, so that its content moves rarely. If all
    chunks are dense none is pooled.
    """
    from analyzer.kv.arena.slots import ArenaPlan  # noqa: PLC0415  loads torch

    sizes_by_region = [0] * 5
    for shape in shapes:
        chunk, _ = shape_only_chunk(shape.stills, plan.epoch + shape.length)
        text_tokens, chunks = int(chunk.anchors_T.sum()), plan.max_chunks(shape.length)
        pooled = 0 if plan.recent >= chunks else chunks + 1 + chunks // 8
        full = min(plan.recent, chunks)
        full += 1 + full // 8
        staged = 1 + STAGED_MEMORIES * min(plan.offloaded_chunks(shape.length), plan.focus)
        pooled_visual = (len(chunk) - text_tokens) // plan.compression
        sizes = (
            full * len(chunk),
            full * text_tokens,
            pooled * pooled_visual,
            pooled * text_tokens,
            staged * len(chunk),
        )
        sizes_by_region = list(map(max, sizes_by_region, sizes))
    dense, text, pooled, pooled_text, staging = sizes_by_region
    return ArenaPlan(
        slots=slots,
        dense=dense,
        text=text,
        pooled=pooled,
        pooled_text=pooled_text,
        staging=staging,
        compression=plan.compression,
    )


def arena_slots(plan: MemoryPlan, cameras: int) -> int:
    """Return the slots of an arena: for cameras, next epochs, and second looks."""
    return cameras + ceil(plan.overlapping_memories(cameras)) + min(cameras, MAX_WINDOWS_PER_STEP)


def pass_copy_bytes(
    plan: MemoryPlan, shape_only_chunk: KVChunk, window: timedelta, *, is_copied: bool
) -> int:
    """Return the most bytes that a pass copies of a full memory into its cache.

    A pass attends to the recent chunks in full, to `focus` of the offloaded ones, and to the
    rest pooled. With `is_copied`, offloaded chunks are first copied to the device or restored
    from eight bits.
    """
    chunks = plan.max_chunks(window)
    dense, focus = min(chunks, plan.recent), min(plan.focus, plan.offloaded_chunks(window))
    pooled = (chunks - dense - focus) * shape_only_chunk.pooled(plan.compression).nbytes
    return pooled + (dense + focus + focus * is_copied) * shape_only_chunk.nbytes
