"""What plain signals of the pictures say: the camera shows the same for ever, or sees nothing.

No model and no clock: only luma, its edges and the times of the stills.

- `frozen`: for FROZEN_AFTER no picture came that was not there before. A few pictures are kept to
  compare with, because a stuck camera's encoder makes slightly different ones of the same scene,
  again and again; the noise of a live sensor makes a new one at every keyframe at the latest.
- `covered`: for COVERED_AFTER the picture was dark, or without edges, or its edges were not
  where they usually are. What is usual is learnt while nothing is wrong, and learnt anew when a
  picture with edges of its own stays for RELEARNT_AFTER: then the camera was turned.

Either ends once the pictures were well for CLEAR_AFTER, and is dated back to when it ended.
"""

from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.claims import period_of
from storage.records import CoverageState, Span, Still, Window

FROZEN_AFTER = timedelta(seconds=20)
"""Longer than the keyframes of a camera are apart: a static scene is new once in each."""
COVERED_AFTER = timedelta(seconds=8)
CLEAR_AFTER = timedelta(seconds=3)
RELEARNT_AFTER = timedelta(minutes=10)
LOOK_EVERY = timedelta(seconds=0.9)
"""Stills that come closer than this to the last one looked at are passed over."""

SAME = 0.05
"""Pictures that differ by less on average, of 255 levels, are the same."""
KEPT = 8
SIDE = 80
DARK = 24.0
"""Nothing is as bright as this."""
BLANK = 0.5
"""Edges, in levels from one cell to the next, that are none."""
LEFT = 0.6
"""Where less of the usual edges than this share is left, the view is not the usual one."""
FAINT = 0.25
"""A picture with a smaller share of edges than this has none of its own."""
LEARNT_FROM = 8
"""So many pictures must be known before one can be unlike the usual."""
GROWTH, SPROUT = 1.01, 0.02
"""How fast edges that are there again count as usual, by the look."""

Luma: TypeAlias = NDArray[np.uint8]
Cells: TypeAlias = NDArray[np.float32]


class Scene:
    """The pictures of one camera, as long as its process lives."""

    def __init__(self) -> None:
        self._pictures = _Pictures()
        self._view = _View()
        self._holds = {
            CoverageState.FROZEN: _Hold(FROZEN_AFTER),
            CoverageState.COVERED: _Hold(COVERED_AFTER),
        }
        self._looked: datetime | None = None

    def look(self, window: Window) -> list[tuple[Span, CoverageState]]:
        """Return what of the time up to the end of a window was frozen or covered."""
        if window.after_gap:
            for hold in self._holds.values():
                hold.clear()
        found: dict[tuple[datetime, CoverageState], datetime] = {}
        for still in self._due(window):
            for since, state in self._judge(still):
                found[since, state] = still.at + period_of(window)
        return [(Span(start=since, end=end), state) for (since, state), end in found.items()]

    def _due(self, window: Window) -> Iterator[Still]:
        for still in window.stills:
            if self._looked is None or still.at - self._looked >= LOOK_EVERY:
                self._looked = still.at
                yield still

    def _judge(self, still: Still) -> Iterator[tuple[datetime, CoverageState]]:
        luma = _luma(still.jpeg)
        signals = {
            CoverageState.FROZEN: not self._pictures.is_new(luma),
            CoverageState.COVERED: self._view.is_lost(still.at, _cells(luma)),
        }
        for state, is_bad in signals.items():
            since = self._holds[state].feed(still.at, is_bad)
            if since is not None:
                yield since, state


class _Hold:
    """A signal that must last to count, and must be gone for a while to be over."""

    def __init__(self, after: timedelta) -> None:
        self._after = after
        self._first: datetime | None = None
        self._well: datetime | None = None
        self._holds = False

    def feed(self, at: datetime, is_bad: bool) -> datetime | None:
        """Take the signal of one still; return since when it holds, where it does now."""
        if is_bad:
            self._first, self._well = self._first or at, None
            self._holds = self._holds or at - self._first >= self._after
            return self._first if self._holds else None
        self._well = self._well or at
        if not self._holds or at - self._well >= CLEAR_AFTER:
            self.clear()
        return None

    def clear(self) -> None:
        """Begin anew."""
        self._first, self._well, self._holds = None, None, False


class _Pictures:
    """The last pictures that were unlike those before them."""

    def __init__(self) -> None:
        self._kept: deque[Luma] = deque(maxlen=KEPT)

    def is_new(self, luma: Luma) -> bool:
        """Say whether a picture is unlike all that are kept, and keep it then."""
        for kept in self._kept:
            if kept.shape == luma.shape and _difference(kept, luma) < SAME:
                return False
        self._kept.append(luma)
        return True


class _View:
    """Where the edges usually are: a lower bound of them, so that what moves leaves none."""

    def __init__(self) -> None:
        self._usual: Cells | None = None
        self._known = 0
        self._turned: datetime | None = None

    def is_lost(self, at: datetime, cells: Cells) -> bool:
        """Say whether nothing, or not the usual, is to be seen; learn from what is."""
        edges = _edges(cells)
        if float(np.percentile(cells, 99)) < DARK or float(edges.mean()) < BLANK:
            return True
        if self._usual is None or self._usual.shape != edges.shape:
            self._usual, self._known = edges, 0
        usual = self._usual
        if float(edges.mean()) < FAINT * float(usual.mean()):
            return True
        is_usual = float(usual.mean()) < BLANK or _left(edges, usual) >= LEFT
        if self._known >= LEARNT_FROM and not is_usual:
            self._turned = self._turned or at
            if at - self._turned < RELEARNT_AFTER:
                return True
            self._usual = usual = edges
        self._turned = None
        self._known += 1
        self._usual = np.minimum(edges, usual * GROWTH + SPROUT)
        return False


def _luma(jpeg: bytes) -> Luma:
    with Image.open(BytesIO(jpeg)) as image:
        image.draft("L", image.size)
        return np.asarray(image.convert("L"))


def _difference(one: Luma, other: Luma) -> float:
    return float(np.abs(one.astype(np.int16) - other).mean())


def _cells(luma: Luma) -> Cells:
    """Average the picture in squares, about SIDE of them in a row: noise goes, edges stay."""
    luma = luma.repeat(2, axis=0) if luma.shape[0] < 2 else luma
    luma = luma.repeat(2, axis=1) if luma.shape[1] < 2 else luma
    size = max(1, min(luma.shape[1] // SIDE, luma.shape[0] // 2))
    high, wide = luma.shape[0] // size, luma.shape[1] // size
    squares = luma[: high * size, : wide * size].reshape(high, size, wide, size)
    cells: Cells = squares.mean((1, 3), dtype=np.float32)
    return cells


def _edges(cells: Cells) -> Cells:
    """Return how much each cell differs from those right of it and below it."""
    across = np.abs(np.diff(cells, axis=1))[:-1]
    down = np.abs(np.diff(cells, axis=0))[:, :-1]
    return across + down


def _left(edges: Cells, usual: Cells) -> float:
    """Return the share of the usual edges that is there now."""
    return float(np.minimum(edges, usual).sum() / usual.sum())
