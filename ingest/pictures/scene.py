"""Detect a frozen, covered or moved camera from its stills.

This needs no model and no clock, only a small luma of each still and its time. Each still is
checked on arrival. Masked pixels are ignored.

- `frozen`: no new picture came for FROZEN_AFTER, and for longer than the keyframe interval; the
  noise of a live sensor makes each keyframe new. Several pictures are kept for comparison, because
  a stuck camera's encoder repeats slightly different ones. One new picture ends it.
- `covered`, `moved`: for UNUSUAL_AFTER the view was not a usual one (`ingest.pictures.view`). Usual
  pictures for CLEAR_AFTER end it, from the first of them on.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ingest.camera import Mask
from ingest.pictures.masks import hidden_pixels
from ingest.pictures.view import Luma, ViewMonitor, VisiblePixels
from storage.records.records import CoverageState

FROZEN_AFTER = timedelta(seconds=20)
FROZEN_KEYFRAME_INTERVALS = 2.5
"""Keyframe intervals without a new picture after which a camera is frozen."""
UNUSUAL_AFTER = timedelta(seconds=8)
CLEAR_AFTER = timedelta(seconds=3)
AGREEING_PICTURES = 3
"""Pictures in a row that change the state of the view."""
CHECK_INTERVAL = timedelta(seconds=0.9)
"""Stills sooner than this after the last checked one are not checked."""

SAME_DIFFERENCE = 0.02
"""Pictures with a smaller mean difference, of 255 levels, are the same, at LUMA_WIDTH. Encodings of
a stuck picture are mostly below, keyframes of a live sensor above 0.1."""
REMEMBERED_PICTURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSignal:
    """A problem of the scene, and since when it lasts."""

    since: datetime
    state: CoverageState


class SceneHealth:
    """The scene of one camera, for the life of its process."""

    def __init__(self, mask: Mask = ()) -> None:
        self._mask = mask
        self._pictures = _RecentPictures()
        self._view = ViewMonitor()
        self._frozen = _LastingSignal(timedelta())
        self._unusual = _UnusualView()
        self._checked_at: datetime | None = None

    def mark_gap(self) -> None:
        """Restart all durations: the next still does not follow the last one."""
        self._frozen.clear()
        self._unusual.clear()

    def observe(
        self, at: datetime, luma: Luma, keyframe_interval: float = 0.0
    ) -> tuple[SceneSignal, ...]:
        """Check the luma of a still; return the problems that last.

        `keyframe_interval` is in seconds.
        """
        if self._checked_at is not None and at < self._checked_at:
            self.mark_gap()
            self._view.reset_time()
        elif self._checked_at is not None and at - self._checked_at < CHECK_INTERVAL:
            return ()
        self._checked_at = at
        visible = ~hidden_pixels(self._mask, *luma.shape) if self._mask else None
        if visible is not None and not visible.any():
            return ()
        frozen_after = timedelta(seconds=FROZEN_KEYFRAME_INTERVALS * keyframe_interval)
        return tuple(self._update_signals(at, luma, visible, frozen_after))

    def _update_signals(
        self, at: datetime, luma: Luma, visible: VisiblePixels | None, frozen_after: timedelta
    ) -> Iterator[SceneSignal]:
        is_same = not self._pictures.add_if_new(luma if visible is None else luma[visible])
        since = self._frozen.update(at, is_same, max(FROZEN_AFTER, frozen_after))
        if since is not None:
            yield SceneSignal(since=since, state=CoverageState.FROZEN)
        unusual = self._unusual.update(at, self._view.update(at, luma, visible))
        if unusual is not None:
            yield unusual


class _LastingSignal:
    """A signal that counts after it has lasted, and ends after `clear_after` without it."""

    def __init__(self, clear_after: timedelta) -> None:
        self._clear_after = clear_after
        self._bad_since: datetime | None = None
        self._well_since: datetime | None = None
        self._is_active = False

    def update(self, at: datetime, is_bad: bool, min_duration: timedelta) -> datetime | None:
        """Record one still; return since when the signal lasts, None before `min_duration`."""
        if is_bad:
            self._bad_since, self._well_since = self._bad_since or at, None
            self._is_active = self._is_active or at - self._bad_since >= min_duration
            return self._bad_since if self._is_active else None
        self._well_since = self._well_since or at
        if not self._is_active or at - self._well_since >= self._clear_after:
            self.clear()
        return None

    @property
    def has_begun(self) -> bool:
        """Return whether the signal has started and not ended."""
        return self._bad_since is not None

    def clear(self) -> None:
        """Restart."""
        self._bad_since, self._well_since, self._is_active = None, None, False


class _UnusualView:
    """The problem of the view, and since when; a single picture does not change it."""

    def __init__(self) -> None:
        self._lasting = _LastingSignal(CLEAR_AFTER)
        self._state: CoverageState | None = None
        self._state_since: datetime | None = None
        self._differing: list[datetime] = []

    def update(self, at: datetime, state: CoverageState | None) -> SceneSignal | None:
        """Record the state of one still; return the problem if it has lasted."""
        since = self._lasting.update(at, state is not None, UNUSUAL_AFTER)
        if state is None:
            if not self._lasting.has_begun:
                self.clear()
            return None
        if state is self._state:
            self._differing.clear()
        else:
            self._differing.append(at)
            if self._state is None or len(self._differing) == AGREEING_PICTURES:
                self._state, self._state_since = state, self._differing[0]
                self._differing.clear()
        if since is None or self._state_since is None or self._state is None or self._differing:
            return None
        return SceneSignal(since=max(since, self._state_since), state=self._state)

    def clear(self) -> None:
        """Restart."""
        self._lasting.clear()
        self._state = self._state_since = None
        self._differing.clear()


class _RecentPictures:
    """The last pictures that differed from those before them."""

    def __init__(self) -> None:
        self._recent: deque[Luma] = deque(maxlen=REMEMBERED_PICTURES)

    def add_if_new(self, luma: Luma) -> bool:
        """Keep a picture that differs from all that are kept; return whether it does."""
        for kept in self._recent:
            if kept.shape == luma.shape and _difference(kept, luma) < SAME_DIFFERENCE:
                return False
        self._recent.append(luma)
        return True


def _difference(one: Luma, other: Luma) -> float:
    return float(np.abs(one - other).mean())
