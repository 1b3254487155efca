"""Learn where a camera's edges usually are, and detect that they are missing or shifted.

A view is a lower bound of the edges over time: moving objects leave none in it. A picture is
compared with it piece by piece, by the place of the edges and not by their strength. Sun, lamps,
rain and a switch to infrared change the strength; turning the camera changes the place.

- covered: the picture is dark or has no edges, or a part of the usual edges is hidden.
- moved: it has strong edges, and in hardly any piece they are the usual ones; or all edges are the
  usual ones, but shifted.

Masked pixels and their neighbours are ignored.

A scene that stays for RELEARNT_AFTER becomes a new view. Several views are kept, so that day and
night, or with and without a parked lorry, are both usual.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.fft import irfft2, rfft2
from numpy.typing import NDArray

from storage.records.records import CoverageState

RELEARNT_AFTER = timedelta(minutes=10)
CELLS_PER_ROW = 80
"""Cells in a row of a picture."""
DARK_LEVEL = 24.0
"""A picture is dark if all but its brightest hundredth is below."""
BLANK_LEVEL = 0.5
"""A mean edge, in levels from one cell to the next, below which a picture has no edges."""
FAINT_SHARE = 0.25
"""A picture with a smaller share of the usual edges than this is covered."""
MIN_REMAINING = 0.6
"""If a smaller share of the usual edges than this is left, the view is unusual."""
MIN_OWN_EDGES = 0.4
"""An unusual picture with a smaller share of the usual edge strength is covered."""
MIN_USUAL_PIECES = 0.15
"""If a smaller share of the pieces has its usual edges, the camera was moved."""
ALIKE_CORRELATION, EQUAL_CORRELATION = 0.4, 0.55
"""Correlations of edges: from the first on a piece may be the usual one; none reaches the second by
chance."""
TEXTURED_SHARE = 0.15
"""A piece with a smaller share than this of the edges of the strongest piece has none."""
PIECE_CELLS = 10
"""Cells along a side of a piece."""
SHIFTED_SHARE = 0.7
"""Edges are shifted if they correlate here by less than this share of the best shift."""
SHAKE_CELLS = 1
"""Cells by which wind shakes a camera; a larger shift counts."""
MIN_LEARNT_PICTURES = 8
"""Pictures to learn before one can be unusual."""
MAX_VIEWS = 4
"""Views that are kept."""
GROWTH_FACTOR, GROWTH_STEP = 1.01, 0.02
"""How fast returning edges become usual, per picture."""
_FFT_MULTIPLE = 16
"""Fourier transforms are fast at multiples of this size."""

Luma: TypeAlias = NDArray[np.float32]
VisiblePixels: TypeAlias = NDArray[np.bool_]
Cells: TypeAlias = NDArray[np.float32]


class ViewMonitor:
    """The usual views of one camera."""

    def __init__(self) -> None:
        self._views: list[_KnownView] = []
        self._unusual_since: datetime | None = None

    def update(
        self, at: datetime, luma: Luma, visible: VisiblePixels | None = None
    ) -> CoverageState | None:
        """Return the problem of a picture, if any; learn from it if there is none.

        `visible` says which pixels count (default: all): (H, W), as `luma`.
        """
        cells = _cells(luma)
        visible_cells = np.ones_like(cells) if visible is None else np.floor(_cells(visible))
        edges, weight = _edges(cells, visible_cells)
        if not weight.any():
            return None
        strength = _mean(edges, weight)
        if _brightest(cells[visible_cells > 0]) < DARK_LEVEL or strength < BLANK_LEVEL:
            return CoverageState.COVERED
        if not self._views or self._views[0].edges.shape != edges.shape:
            self._views = [_KnownView(edges, weight)]
        if strength < FAINT_SHARE * _mean(self._views[0].edges, weight):
            return CoverageState.COVERED
        state = self._views[0].compare(edges)
        if state is not None and not self._restore_known(edges):
            self._unusual_since = self._unusual_since or at
            if at - self._unusual_since < RELEARNT_AFTER:
                return state
            self._views = [_KnownView(edges, weight), *self._views[: MAX_VIEWS - 1]]
        self._unusual_since = None
        self._views[0].learn(edges)
        return None

    def _restore_known(self, edges: Cells) -> bool:
        """Make another view current that matches the edges; return whether there is one."""
        for nth, each in enumerate(self._views[1:], 1):
            if each.compare(edges) is None:
                self._views.insert(0, self._views.pop(nth))
                return True
        return False

    def reset_time(self) -> None:
        """Forget since when the view is unusual: time restarts."""
        self._unusual_since = None


class _KnownView:
    """The edges of one view; only those with a `weight` of 1 count."""

    def __init__(self, edges: Cells, weight: Cells) -> None:
        self.edges, self._weight = edges, weight
        self._share: Cells = (weight / np.maximum(_blurred(weight), 1 / 9)).astype(np.float32)
        self._learnt_count = 0

    def compare(self, edges: Cells) -> CoverageState | None:
        """Return the problem of a picture's edges, if any, compared with this view."""
        weight = self._weight
        if self._learnt_count < MIN_LEARNT_PICTURES or _mean(self.edges, weight) < BLANK_LEVEL:
            return None
        usual: Cells = _blurred(self.edges) * self._share
        now: Cells = _blurred(edges) * self._share
        likeness = _Likeness(now, usual, weight)
        if likeness.is_shifted:
            return CoverageState.MOVED
        now, edges = (np.roll(each, likeness.shift, (0, 1)) for each in (now, edges))
        weight = weight * np.roll(weight, likeness.shift, (0, 1))
        remaining = np.minimum(edges, self.edges) * weight
        share = float(remaining.sum() / ((self.edges * weight).sum() or 1.0))
        alike = partial(_alike_share, now, usual, weight)
        if share >= MIN_REMAINING or alike(ALIKE_CORRELATION) >= MIN_REMAINING:
            return None
        has_own = _edge_strength(now, weight) >= MIN_OWN_EDGES * _edge_strength(usual, weight)
        is_moved = has_own and alike(EQUAL_CORRELATION) < MIN_USUAL_PIECES
        return CoverageState.MOVED if is_moved else CoverageState.COVERED

    def learn(self, edges: Cells) -> None:
        """Learn edges as usual."""
        self.edges = np.minimum(edges, self.edges * GROWTH_FACTOR + GROWTH_STEP)
        self._learnt_count += 1


def _cells(pixels: Luma | VisiblePixels) -> Cells:
    """Average a picture in squares, about CELLS_PER_ROW a row: noise goes, edges stay."""
    pixels = pixels.repeat(2, axis=0) if pixels.shape[0] < 2 else pixels
    pixels = pixels.repeat(2, axis=1) if pixels.shape[1] < 2 else pixels
    size = max(1, min(pixels.shape[1] // CELLS_PER_ROW, pixels.shape[0] // 2))
    high, wide = pixels.shape[0] // size, pixels.shape[1] // size
    cells = np.zeros((high, wide), np.float32)
    for y, x in np.ndindex(size, size):
        cells += pixels[y : high * size : size, x : wide * size : size]
    cells /= size * size
    return cells


def _edges(cells: Cells, visible: Cells) -> tuple[Cells, Cells]:
    """Return how much each cell differs from its right and lower neighbours, and the weights.

    The weight of an edge is 1 if all its cells are visible.
    """
    across = np.abs(np.diff(cells, axis=1))[:-1]
    down = np.abs(np.diff(cells, axis=0))[:, :-1]
    weight = visible[:-1, :-1] * visible[:-1, 1:] * visible[1:, :-1]
    return (across + down) * weight, weight


def _brightest(cells: Cells) -> float:
    """Return the 99th percentile of the brightness."""
    nth = cells.size * 99 // 100
    return float(np.partition(cells, nth)[nth])


def _mean(edges: Cells, weight: Cells) -> float:
    return float(edges.sum() / (weight.sum() or 1.0))


def _centred(edges: Cells, weight: Cells) -> Cells:
    """Return edges minus their mean; 0 where the weight is 0."""
    centred: Cells = (edges - _mean(edges * weight, weight)) * weight
    return centred


def _blurred(edges: Cells) -> Cells:
    """Average each edge with its neighbours, against a shaking camera."""
    padded: Cells = np.pad(edges, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    around = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
    blurred: Cells = around.astype(np.float32, copy=False)
    return blurred


def _alike_share(edges: Cells, usual: Cells, weight: Cells, min_correlation: float) -> float:
    """Return the share of pieces with usual edges whose edges correlate with them."""
    found = list[tuple[float, bool]]()
    for y in range(0, edges.shape[0], PIECE_CELLS):
        for x in range(0, edges.shape[1], PIECE_CELLS):
            piece = np.s_[y : y + PIECE_CELLS, x : x + PIECE_CELLS]
            one, other = (_centred(each[piece], weight[piece]) for each in (edges, usual))
            norm = float(np.linalg.norm(other))
            needed = min_correlation * float(np.linalg.norm(one)) * norm
            found.append((norm, float((one * other).sum()) >= needed))
    most = max(norm for norm, _ in found)
    votes = [is_alike for norm, is_alike in found if norm >= TEXTURED_SHARE * most]
    return sum(votes) / len(votes)


def _edge_strength(edges: Cells, weight: Cells) -> float:
    """Return how strong edges are against their mean."""
    return float(np.linalg.norm(_centred(edges, weight)))


class _Likeness:
    """The correlation of edges with the usual ones, at any shift."""

    def __init__(self, edges: Cells, usual: Cells, weight: Cells) -> None:
        self._edges, self._usual = _centred(edges, weight), _centred(usual, weight)
        self._norm = float(np.linalg.norm(self._edges) * np.linalg.norm(self._usual)) or 1.0
        steps = range(-SHAKE_CELLS, SHAKE_CELLS + 1)
        near = {(y, x): self._correlation_at(y, x) for y in steps for x in steps}
        self.shift = max(near, key=near.__getitem__)
        """The best small shift, in cells down and right."""
        self._near_correlation = near[self.shift]

    @property
    def is_shifted(self) -> bool:
        """Return whether the edges are the usual ones, shifted by more than a shake."""
        if self._near_correlation >= SHIFTED_SHARE:  # a correlation is 1 at most
            return False
        most = self._max_correlation()
        return most >= ALIKE_CORRELATION and self._near_correlation < SHIFTED_SHARE * most

    def _correlation_at(self, down: int, right: int) -> float:
        """Return the correlation of the edges, shifted by cells down and right."""
        high, wide = self._edges.shape
        usual = self._usual[max(down, 0) : high + down, max(right, 0) : wide + right]
        edges = self._edges[max(-down, 0) : high - down, max(-right, 0) : wide - right]
        return float((edges * usual).sum()) / self._norm

    def _max_correlation(self) -> float:
        """Return the best correlation over all shifts."""
        size = [-(-2 * side // _FFT_MULTIPLE) * _FFT_MULTIPLE for side in self._edges.shape]
        spectrum = rfft2(self._usual, size) * np.conj(rfft2(self._edges, size))
        return float(irfft2(spectrum, size).max()) / self._norm
