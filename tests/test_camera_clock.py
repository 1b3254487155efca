import pytest

from ingest.frames import ReceivedFrame
from ingest.timing.camera_clock import SenderReports, choose_clock
from ingest.timing.stream_time import FrameTime
from storage.records.records import ClockSource

EPOCH = 1_700_000_000.0


@pytest.mark.parametrize(
    ("offsets", "source", "offset"),
    [
        ([], ClockSource.RECEIVED, 0.0),
        ([-0.1, -0.1, -0.2], ClockSource.CAMERA_NTP, -0.1),
        ([59.0], ClockSource.CAMERA_NTP, 59.0),
        ([-61.0], ClockSource.RECEIVED, -61.0),
        ([-EPOCH, -EPOCH], ClockSource.RECEIVED, -EPOCH),
        ([0.0, 0.0, 2.5], ClockSource.RECEIVED, 0.0),
    ],
)
def test_a_camera_clock_is_believed_when_steady_and_near(
    offsets: list[float], source: ClockSource, offset: float
) -> None:
    clock = choose_clock(offsets)
    assert (clock.source, clock.offset) == (source, offset)


@pytest.mark.parametrize(("moved", "believed"), [(0.0, False), (0.1, True), (-30.0, True)])
def test_a_report_from_before_the_timestamps_counted_anew_says_nothing(
    moved: float, *, believed: bool
) -> None:
    reports = SenderReports()

    def camera_time(at: float, zero: float, *, counts_anew: bool) -> float | None:
        frame = ReceivedFrame(pts=at, arrived=at, waited=True, camera_time=zero + at)
        seen = FrameTime(
            at=at, after_gap=False, lateness=0.0, is_timestamp_used=True, has_new_zero=counts_anew
        )
        return reports.observe(frame, seen)

    assert camera_time(5.0, 1000.0, counts_anew=False) == 1005.0
    assert (camera_time(6.0, 1000.0 + moved, counts_anew=True) is not None) is believed
