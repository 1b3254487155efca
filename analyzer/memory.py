"""The memory of one camera: the keys and values of its last windows.

Chunks are immutable once appended. Their timestamps count seconds from the start of an epoch;
when an epoch ends the memory starts afresh, so that times never contradict their order and
stay within what the model was taught.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.vision import Background
from storage.records import Window

EPOCH = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One window as the model remembers it."""

    start: datetime
    end: datetime
    kv: KVChunk


class Memory:
    """Chunks in order, none older than `horizon` behind the latest."""

    def __init__(self, horizon: timedelta) -> None:
        self.horizon = horizon
        self.background: Background | None = None
        self._chunks: deque[Chunk] = deque()
        self._epoch: datetime | None = None

    def remembers(self, window: Window) -> bool:
        """Say whether a window lies in what is already remembered, as after a replay."""
        return bool(self._chunks) and window.start <= self._chunks[-1].end

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._epoch = None

    def seconds(self, window: Window) -> list[float]:
        """Return the time of each still in the epoch, beginning a new one where it is over."""
        if self._epoch is None or window.end - self._epoch >= EPOCH:
            self.clear()
            self._epoch = window.start
        return [(still.at - self._epoch).total_seconds() for still in window.stills]

    def append(self, window: Window, kv: KVChunk, background: Background | None) -> None:
        """Remember a window, and forget what lies beyond the horizon."""
        self._chunks.append(Chunk(start=window.start, end=window.end, kv=kv))
        self.background = background
        while self._chunks[0].start < window.end - self.horizon:
            self._chunks.popleft()

    def last(self, reach: timedelta = timedelta.max) -> list[KVChunk]:
        """Return the chunks that reach into the last `reach`, oldest first."""
        if not self._chunks:
            return []
        now = self._chunks[-1].end
        return [chunk.kv for chunk in self._chunks if now - chunk.end < reach]

    @property
    def span(self) -> timedelta:
        """Return how much video is remembered."""
        if not self._chunks:
            return timedelta(0)
        return self._chunks[-1].end - self._chunks[0].start

    @property
    def nbytes(self) -> int:
        """Return the bytes of all keys and values held."""
        return sum(chunk.kv.nbytes for chunk in self._chunks)
