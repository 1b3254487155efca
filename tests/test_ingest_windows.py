from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import FileTime, ReceivedTime
from ingest.pace import Pace
from ingest.windows import Windows
from storage.records import ClockSource, Still, Window

START = datetime(2026, 1, 1, tzinfo=UTC)
SIZE = 4


def a_still(at: float) -> Still:
    return Still(at=START + timedelta(seconds=at), jpeg=b"jpeg", width=4, height=3)


def live(size: int = SIZE) -> Windows:
    return Windows("dock", size, ClockSource.RECEIVED)


def fed(windows: Windows, stills: Iterable[float], claim: float | None = None) -> list[Window]:
    made = [windows.add(a_still(at), claim) for at in stills]
    return [window for window in made if window is not None]


def instants(window: Window) -> list[float]:
    return [(still.at - START).total_seconds() for still in window.stills]


@given(st.lists(st.integers(min_value=0, max_value=11), max_size=12))
def test_each_run_between_breaks_is_cut_into_full_windows(runs: list[int]) -> None:
    windows, at = live(), 0
    for number, length in enumerate(runs):
        made = fed(windows, range(at, at + length))
        assert [instants(window) for window in made] == [
            list(range(first, first + SIZE)) for first in range(at, at + length - SIZE + 1, SIZE)
        ]
        assert [window.after_gap for window in made] == [
            number > 0 and n == 0 for n in range(len(made))
        ]
        at += length
        windows.break_off()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What reaches us of one frame: steps from the one before, and the camera's claim."""

    pts_step: float
    received_step: float
    claim: float | None
    reconnects: bool


sights = st.lists(
    st.builds(
        Sight,
        pts_step=st.just(0.5) | st.floats(-100, 100),
        received_step=st.just(0.5) | st.floats(0, 20),
        claim=st.none() | st.sampled_from([-3e9, -45.0, -0.1, 0.0, 5.0, 59.0, 3600.0]),
        reconnects=st.integers(0, 20).map(lambda n: n == 0),
    ),
    max_size=60,
)


@given(sights)
def test_stills_strictly_increase_whatever_the_camera_and_its_clock_do(
    sights: list[Sight],
) -> None:
    windows, timeline, pace = live(), ReceivedTime(), Pace(1.0)
    made: list[Window] = []
    pts = received = 0.0
    for sight in sights:
        pts, received = pts + sight.pts_step, received + sight.received_step
        timeline = ReceivedTime() if sight.reconnects else timeline
        instant = timeline.place(pts, received)
        if sight.reconnects or instant.broke:
            windows.break_off()
            pace = Pace(1.0)
        if pace.keeps(instant.at):
            window = windows.add(a_still(instant.at), sight.claim)
            made += [window] if window else []
    stills = [still.at for window in made for still in window.stills]
    assert all(earlier < later for earlier, later in pairwise(stills))
    assert all(len(window.stills) == SIZE for window in made)
    assert len({window.id for window in made}) == len(made)


def test_a_window_is_moved_to_the_clock_of_the_camera() -> None:
    windows = live()
    before_the_first_report = fed(windows, [0, 1])
    (window,) = fed(windows, [2, 3], claim=-0.25)
    assert not before_the_first_report
    assert instants(window) == [-0.25, 0.75, 1.75, 2.75]
    assert (window.clock.source, window.clock.offset) == (ClockSource.CAMERA_NTP, -0.25)


def test_a_camera_clock_that_would_repeat_time_is_only_told() -> None:
    windows = live()
    fed(windows, range(4))
    (window,) = fed(windows, range(4, 8), claim=-30.0)
    assert instants(window) == [4, 5, 6, 7]
    assert (window.clock.source, window.clock.offset) == (ClockSource.RECEIVED, -30.0)
    assert not window.after_gap


def test_a_step_to_another_clock_is_a_gap() -> None:
    windows = live()
    fed(windows, range(4))
    (window,) = fed(windows, range(4, 8), claim=30.0)
    assert instants(window) == [34, 35, 36, 37]
    assert window.after_gap


def test_stills_that_were_told_already_are_dropped_and_the_gap_is_marked() -> None:
    windows = live()
    fed(windows, range(4), claim=1.5)
    assert not fed(windows, [4, 5, 6, 7])
    (window,) = fed(windows, [8])
    assert instants(window) == [5, 6, 7, 8]
    assert window.after_gap


def test_claims_of_dropped_stills_do_not_count() -> None:
    windows = live()
    fed(windows, range(4), claim=5.0)
    fed(windows, [4, 5])
    windows.break_off()
    assert not fed(windows, [5, 6, 7, 8], claim=-30.0)
    (window,) = fed(windows, [9, 10, 11, 12], claim=0.5)
    assert (window.clock.source, window.clock.offset) == (ClockSource.CAMERA_NTP, 0.5)
    fed(windows, [13, 14], claim=40.0)
    windows.break_off()
    (window,) = fed(windows, [15, 16, 17, 18], claim=0.25)
    assert (window.clock.source, window.clock.offset) == (ClockSource.CAMERA_NTP, 0.25)


def test_the_end_of_a_file_makes_a_shorter_window_of_whole_groups() -> None:
    windows = Windows("dock", 16, ClockSource.FILE)
    fed(windows, range(11))
    rest = windows.rest()
    assert rest is not None
    assert instants(rest) == list(range(8))
    assert windows.rest() is None


def test_timestamps_that_go_back_in_a_file_lose_no_still() -> None:
    windows, timeline, made = live(), FileTime(0.0, 1.0), []
    for pts in [0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 3.0]:
        made += fed(windows, [timeline.place(pts, 0.0).at])
    assert [instants(window) for window in made] == [[0, 1, 2, 3], [4, 5, 6, 7]]
