"""What the pictures of a live camera show is claimed with the window, and masks are left out."""

from dataclasses import replace

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from ingest.frames import Frame
from kit.ingest.recorder_driver import DOCK, EPOCH, RecorderDriver

NOISE = np.random.default_rng(3)
PLACE = np.random.default_rng(7).integers(30, 220, (24, 32)).repeat(5, 0).repeat(5, 1)
STUCK, DARK = PLACE.astype(np.uint8), np.full(PLACE.shape, 4, np.uint8)
LEFT = (((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),)


def noisy(place: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(place + NOISE.normal(0, 3, place.shape), 0, 255).astype(np.uint8)


def show(live: RecorderDriver, second: float, grey: NDArray[np.uint8]) -> None:
    live.advance_to(second)
    picture = VideoFrame.from_ndarray(grey, format="gray")
    frame = Frame(picture=picture, pts=second, arrived=second, waited=True, is_keyframe=True)
    live.recorder.record(frame)


def claimed_spans(live: RecorderDriver, state: str) -> list[tuple[float, float]]:
    return [(start, end) for start, end, each in live.claimed_spans if each == state]


def test_frozen_is_claimed_since_its_second_still_up_to_the_end_of_each_window() -> None:
    live = RecorderDriver()
    for second in range(32):
        show(live, second, STUCK)
    assert claimed_spans(live, "frozen") == [(1, end) for end in (24, 28, 32)]


def test_frozen_ends_at_the_still_that_is_new() -> None:
    live = RecorderDriver()
    for second in range(32):
        show(live, second, STUCK if second < 26 else noisy(STUCK))
    assert claimed_spans(live, "frozen") == [(1, 24), (1, 26)]


def test_a_connection_that_was_lost_begins_anew() -> None:
    live = RecorderDriver()
    for second in range(12):
        show(live, second, STUCK)
    live.recorder.record_loss("gone")
    live.recorder.start_connection()
    for second in range(14, 40):
        show(live, second, STUCK)
    frozen = claimed_spans(live, "frozen")
    assert {start for start, _ in frozen} == {14}
    assert frozen[0][1] > 34


def test_a_host_clock_that_is_set_back_leaves_what_is_claimed_in_its_own_time() -> None:
    live = RecorderDriver()
    for second in range(36):
        if second == 18:
            live.wall_ahead = -3600.0
        show(live, second, DARK if second >= 18 else noisy(STUCK))
    covered = claimed_spans(live, "covered")
    assert covered
    assert all(18 <= start + 3600 <= 19 and start < end <= 36 - 3600 for start, end in covered)


def test_what_moves_behind_a_mask_is_frozen_and_is_not_kept() -> None:
    live = RecorderDriver(camera=replace(DOCK, mask=LEFT))
    for second in range(32):
        grey = STUCK.copy()
        grey[:, :80] = noisy(STUCK)[:, :80]
        show(live, second, grey)
    assert claimed_spans(live, "frozen")[-1] == (1, 32)
    unmasked = RecorderDriver()
    for second in range(32):
        grey = STUCK.copy()
        grey[:, :80] = noisy(STUCK)[:, :80]
        show(unmasked, second, grey)
    assert not claimed_spans(unmasked, "frozen")


def test_signals_are_of_the_still_and_not_of_the_window_that_it_comes_into() -> None:
    """A window that ends before it is full leaves stills in hand, whose time it does not claim."""
    live = RecorderDriver(camera=replace(DOCK, stills_per_window=8))
    for second in range(30):
        show(live, second, STUCK)
    live.recorder.close()
    ends = [window.covers.end.timestamp() - EPOCH for window in live.windows if window.covers]
    assert [end for _, end in claimed_spans(live, "frozen")] == [end for end in ends if end > 21]
