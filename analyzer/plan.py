"""How much a camera may remember, in which form, and what that costs in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from analyzer.videoxl2.kv import KVChunk

Blank: TypeAlias = "Callable[[int, timedelta], tuple[KVChunk, int]]"
"""`blank(stills, latest)` returns the largest chunk of so many stills, without content, and the
bytes of its visual tokens, where timestamps count up to `latest`."""

AT_ONCE = 8
"""So many cameras at most are read in one pass."""
STEPS, TOGETHER = 16, 2**16
"""Views of one memory, and tokens, that the reply to a person lays out at most in one pass."""
DAWN = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What one camera's memory holds.

    The last `recent` chunks are held dense where the model runs. Older ones are held pooled as
    long as `horizon`; their dense form waits on the host as far back as `focus_horizon`, and
    longer where a standing question found a chunk relevant, in eight bits where `int8` says so.
    A question reads `focus` of them in full. `compression` visual tokens are pooled into one;
    `corrected` gives it their number's share of the attention. Timestamps start over every
    `epoch`.
    """

    horizon: timedelta = timedelta(seconds=64)
    focus_horizon: timedelta = timedelta(seconds=64)
    recent: int = 4
    focus: int = 4
    compression: int = 4
    corrected: bool = False
    int8: bool = False
    epoch: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if self.epoch <= self.horizon:
            raise ValueError("an epoch must be longer than the horizon")

    def chunks(self, window: timedelta) -> int:
        """Return how many windows of a length are remembered at most."""
        return ceil(self.horizon / window)

    def waiting(self, window: timedelta) -> int:
        """Return how many of them wait on the host in their dense form."""
        late = min(self.chunks(window), self.focus_horizon // window + 1) - self.recent
        return max(0, late)

    def origin(self, at: datetime) -> datetime:
        """Return the instant from which the timestamps around `at` count.

        Origins follow each other at equal steps of the clock, so that a memory that is built
        again counts as the lost one did; whatever is within the horizon counts from 0 upwards.
        """
        step = self.epoch - self.horizon
        return DAWN + (at - DAWN) // step * step - self.horizon


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Bytes by tier: dense and near, dense and waiting, pooled, and the tokens to read again."""

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
    """How many stills a camera's windows hold, and how long one lasts."""

    stills: int
    length: timedelta


def largest_budget(plan: MemoryPlan, blank: Blank, shapes: Iterable[WindowShape]) -> Ledger:
    """Return what the full memory of any of several cameras takes at most, tier by tier."""
    budgets = [
        budget(plan, *blank(shape.stills, plan.epoch + shape.length), shape.length)
        for shape in shapes
    ]
    tiers = [tier.name for tier in fields(Ledger)]
    return Ledger(**{tier: max(getattr(each, tier) for each in budgets) for tier in tiers})


def budget(plan: MemoryPlan, blank: KVChunk, tokens: int, window: timedelta) -> Ledger:
    """Return what the full memory of a camera takes.

    `blank` is a chunk as large as its windows can make it (of the meta device, say), `tokens`
    the bytes of its visual tokens, `window` how long its windows are.
    """
    from analyzer.videoxl2.int8 import Int8Chunk  # noqa: PLC0415  loads torch

    chunks = plan.chunks(window)
    older = Int8Chunk.of(blank) if plan.int8 else blank
    return Ledger(
        recent=min(chunks, plan.recent) * blank.nbytes,
        focus=plan.waiting(window) * older.nbytes,
        gist=chunks * blank.pooled(plan.compression).nbytes,
        tokens=chunks * tokens,
    )


def laid_out(plan: MemoryPlan, blank: KVChunk, window: timedelta, *, fetched: bool) -> int:
    """Return what the reading of a window lays out of a full memory, beside what is held.

    It reads each chunk as densely as that is held; what waits is `fetched` first where it waits
    elsewhere or in eight bits.
    """
    chunks, waiting = plan.chunks(window), plan.waiting(window)
    dense = min(chunks, plan.recent) + waiting
    pooled = (chunks - dense) * blank.pooled(plan.compression).nbytes
    return pooled + (dense + waiting * fetched) * blank.nbytes
