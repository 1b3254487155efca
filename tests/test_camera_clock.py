import pytest

from ingest.camera_clock import choose_clock
from storage.records import ClockSource

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
