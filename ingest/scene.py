"""What plain signals of the pictures say: the camera shows the same for ever, or sees nothing.

No model and no clock: only a small luma of each still, its edges and its time. Each still is
looked at when it is taken, so that nothing is left to do when its window ends. What a mask hides
is left out.

- `frozen`: no picture came that was not there before, for FROZEN_AFTER and longer than keyframes
  are apart: the noise of a live sensor makes a new picture at every keyframe at the latest. A few
  pictures are kept to compare with, because a stuck camera's encoder makes slightly different ones
  of the same scene, again and again. One new picture ends it.
- `covered`, `moved`: for UNUSUAL_AFTER the camera did not see what it usually sees (`ingest.view`).
  Either ends once the pictures were well for CLEAR_AFTER, and is dated back to when it ended.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ingest.masks import Mask, hidden_by
from ingest.view import Luma, Shown, View
from storage.records import CoverageState

FROZEN_AFTER = timedelta(seconds=20)
KEYFRAMES = 2.5
"""So many intervals of keyframes without a new picture are no accident."""
UNUSUAL_AFTER = timedelta(seconds=8)
CLEAR_AFTER = timedelta(seconds=3)
AGREE = 3
"""So many pictures in a row change what is wrong with the view."""
LOOK_EVERY = timedelta(seconds=0.9)
"""Stills that come closer than this to the last one looked at are passed over."""

SAME = 0.02
"""Pictures that differ by less on average, of 255 levels, are the same, at LUMA_WIDTH:
what an encoder makes of a stuck picture is mostly below, a keyframe of a live sensor above 0.1."""
KEPT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What is wrong with the picture of a still, and since when."""

    since: datetime
    state: CoverageState


class Scene:
    """The pictures of one camera, as long as its process lives."""

    def __init__(self, mask: Mask = ()) -> None:
        self._mask = mask
        self._pictures = _Pictures()
        self._view = View()
        self._frozen = _Hold(timedelta())
        self._unusual = _Unusual()
        self._looked: datetime | None = None

    def gap(self) -> None:
        """Take that the next still does not follow the last one: nothing has lasted yet."""
        self._frozen.clear()
        self._unusual.clear()

    def look(self, at: datetime, luma: Luma, keyframes: float = 0.0) -> tuple[Signal, ...]:
        """Take a still that was seen at an instant; return what is wrong with it, by its luma.

        `keyframes` is by how many seconds those of the stream are apart.
        """
        if self._looked is not None and at < self._looked:
            self.gap()
            self._view.time_went_back()
        elif self._looked is not None and at - self._looked < LOOK_EVERY:
            return ()
        self._looked = at
        shown = ~hidden_by(self._mask, *luma.shape) if self._mask else None
        if shown is not None and not shown.any():
            return ()
        return tuple(self._judge(at, luma, shown, timedelta(seconds=KEYFRAMES * keyframes)))

    def _judge(
        self, at: datetime, luma: Luma, shown: Shown | None, after: timedelta
    ) -> Iterator[Signal]:
        is_same = not self._pictures.is_new(luma if shown is None else luma[shown])
        since = self._frozen.feed(at, is_same, max(FROZEN_AFTER, after))
        if since is not None:
            yield Signal(since=since, state=CoverageState.FROZEN)
        unusual = self._unusual.feed(at, self._view.judge(at, luma, shown))
        if unusual is not None:
            yield unusual


class _Hold:
    """A signal that must last to count, and must be gone for `clear_after` to be over."""

    def __init__(self, clear_after: timedelta) -> None:
        self._clear_after = clear_after
        self._first: datetime | None = None
        self._well: datetime | None = None
        self._holds = False

    def feed(self, at: datetime, is_bad: bool, after: timedelta) -> datetime | None:
        """Take the signal of one still; return since when it holds, where it has for `after`."""
        if is_bad:
            self._first, self._well = self._first or at, None
            self._holds = self._holds or at - self._first >= after
            return self._first if self._holds else None
        self._well = self._well or at
        if not self._holds or at - self._well >= self._clear_after:
            self.clear()
        return None

    @property
    def is_on(self) -> bool:
        """Return whether the signal began, and is not over."""
        return self._first is not None

    def clear(self) -> None:
        """Begin anew."""
        self._first, self._well, self._holds = None, None, False


class _Unusual:
    """What is wrong with the view, and since when; a single picture that says otherwise is none."""

    def __init__(self) -> None:
        self._hold = _Hold(CLEAR_AFTER)
        self._state: CoverageState | None = None
        self._began: datetime | None = None
        self._others: list[datetime] = []

    def feed(self, at: datetime, state: CoverageState | None) -> Signal | None:
        """Take what is wrong with one still; return since when it is what, where it has lasted."""
        since = self._hold.feed(at, state is not None, UNUSUAL_AFTER)
        if state is None:
            if not self._hold.is_on:
                self.clear()
            return None
        if state is self._state:
            self._others.clear()
        else:
            self._others.append(at)
            if self._state is None or len(self._others) == AGREE:
                self._state, self._began = state, self._others[0]
                self._others.clear()
        if since is None or self._began is None or self._state is None or self._others:
            return None
        return Signal(since=max(since, self._began), state=self._state)

    def clear(self) -> None:
        """Begin anew."""
        self._hold.clear()
        self._state = self._began = None
        self._others.clear()


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


def _difference(one: Luma, other: Luma) -> float:
    return float(np.abs(one - other).mean())
