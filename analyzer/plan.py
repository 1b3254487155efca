"""How much a camera may remember, in which form, and what that costs in bytes."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from math import ceil

from analyzer.videoxl2.int8 import Int8Chunk
from analyzer.videoxl2.kv import KVChunk

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


def budget(plan: MemoryPlan, blank: KVChunk, tokens: int, window: timedelta) -> Ledger:
    """Return what the full memory of a camera takes.

    `blank` is a chunk as large as its windows can make it (of the meta device, say), `tokens`
    the bytes of its visual tokens, `window` how long its windows are.
    """
    chunks = ceil(plan.horizon / window) + 1
    waiting = min(chunks, ceil(plan.focus_horizon / window) + 1) - plan.recent
    older = Int8Chunk.of(blank) if plan.int8 else blank
    return Ledger(
        recent=min(chunks, plan.recent) * blank.nbytes,
        focus=max(0, waiting) * older.nbytes,
        gist=chunks * blank.pooled(plan.compression).nbytes,
        tokens=chunks * tokens,
    )
