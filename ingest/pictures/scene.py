"""What plain signals of the pictures say: the camera shows the same for ever, or sees nothing.

No model and no clock: only a small luma of each still, its edges and its time. Each still is
looked at when it is taken, so that nothing is left to do when its window ends. What a mask hides
is left out.

- `frozen`: no picture came that was not there before, for FROZEN_AFTER and longer than keyframes
  are apart: the noise of a live sensor makes a new picture at every keyframe at the latest. A few
  pictures are kept to compare with, because a stuck camera's encoder makes slightly different ones
  of the same scene, again and again. One new picture ends it.
- `covered`, `moved`: for UNUSUAL_AFTER the camera did not see what it usually sees (`ingest.pictures.view`).
  Either ends once the pictures were well for CLEAR_AFTER, and is dated back to when it ended.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ingest.masks import Mask, hidden_pixels
from ingest.pictures.view import Luma, ViewMonitor, VisiblePixels
from storage.records.records import CoverageState

FROZEN_AFTER = timedelta(seconds=20)
FROZEN_KEYFRAME_INTERVALS = 2.5
"""So many intervals of keyframes without a new picture are no accident."""
UNUSUAL_AFTER = timedelta(seconds=8)
CLEAR_AFTER = timedelta(seconds=3)
AGREEING_PICTURES = 3
"""So many pictures in a row change what is wrong with the view."""
CHECK_INTERVAL = timedelta(seconds=0.9)
"""Stills that come closer than this to the last one looked at are passed over."""

SAME_DIFFERENCE = 0.02
"""Pictures that differ by less on average, of 255 levels, are the same, at LUMA_WIDTH:
what an encoder makes of a stuck picture is mostly below, a keyframe of a live sensor above 0.1."""
REMEMBERED_PICTURES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSignal:
    """What is wrong with the picture of a still, and since when."""

    since: datetime
    state: CoverageState


class SceneHealth:
    """The pictures of one camera, as long as its process lives."""

    def __init__(self, mask: Mask = ()) -> None:
        self._mask = mask
        self._pictures = _RecentPictures()
        self._view = ViewMonitor()
        self._frozen = _LastingSignal(timedelta())
        self._unusual = _UnusualView()
        self._checked_at: datetime | None = None

    def mark_gap(self) -> None:
        """Take that the next still does not follow the last one: nothing has lasted yet."""
        self._frozen.clear()
        self._unusual.clear()

    def observe(
        self, at: datetime, luma: Luma, keyframe_interval: float = 0.0
    ) -> tuple[SceneSignal, ...]:
        """Take a still that was seen at an instant; return what is wrong with it, by its luma.

        `keyframes` is by how many seconds those of the stream are apart.
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
        return tuple(
            self._update_signals(
                at, luma, visible, timedelta(seconds=FROZEN_KEYFRAME_INTERVALS * keyframe_interval)
            )
        )

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
    """A signal that must last to count, and must be gone for `clear_after` to be over."""

    def __init__(self, clear_after: timedelta) -> None:
        self._clear_after = clear_after
        self._bad_since: datetime | None = None
        self._well_since: datetime | None = None
        self._is_active = False

    def update(self, at: datetime, is_bad: bool, min_duration: timedelta) -> datetime | None:
        """Take the signal of one still; return since when it holds, where it has for `after`."""
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
        """Return whether the signal began, and is not over."""
        return self._bad_since is not None

    def clear(self) -> None:
        """Begin anew."""
        self._bad_since, self._well_since, self._is_active = None, None, False


class _UnusualView:
    """What is wrong with the view, and since when; a single picture that says otherwise is none."""

    def __init__(self) -> None:
        self._lasting = _LastingSignal(CLEAR_AFTER)
        self._state: CoverageState | None = None
        self._state_since: datetime | None = None
        self._differing: list[datetime] = []

    def update(self, at: datetime, state: CoverageState | None) -> SceneSignal | None:
        """Take what is wrong with one still; return since when it is what, where it has lasted."""
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
        """Begin anew."""
        self._lasting.clear()
        self._state = self._state_since = None
        self._differing.clear()


class _RecentPictures:
    """The last pictures that were unlike those before them."""

    def __init__(self) -> None:
        self._recent: deque[Luma] = deque(maxlen=REMEMBERED_PICTURES)

    def add_if_new(self, luma: Luma) -> bool:
        """Say whether a picture is unlike all that are kept, and keep it then."""
        for kept in self._recent:
            if kept.shape == luma.shape and _difference(kept, luma) < SAME_DIFFERENCE:
                return False
        self._recent.append(luma)
        return True


def _difference(one: Luma, other: Luma) -> float:
    return float(np.abs(one - other).mean())
