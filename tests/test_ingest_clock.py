import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import FileTime, Instant, ReceivedTime, Timeline, choose_clock
from ingest.source import ReceiveClock
from storage.records import ClockSource

EPOCH = 1_700_000_000.0


def place(timeline: Timeline, *frames: tuple[float | None, float]) -> list[Instant]:
    return [timeline.place(pts, EPOCH + received) for pts, received in frames]


def seconds(instants: list[Instant]) -> list[float]:
    return [round(instant.at - EPOCH, 3) for instant in instants]


def broken(instants: list[Instant]) -> list[bool]:
    return [instant.broke for instant in instants]


def test_our_clock_follows_when_set_ahead_and_never_goes_back() -> None:
    wall = iter([100.0, 101.0, 86_502.0, 3.0, 4.0])
    steady = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    clock = ReceiveClock(lambda: next(wall), lambda: next(steady))
    assert [clock.now() for _ in range(4)] == [101.0, 86_502.0, 86_503.0, 86_504.0]


def test_a_hiccup_of_the_network_does_not_bend_time() -> None:
    steady = [(n / 10, n / 10) for n in range(30)]
    held_up = [(n / 10, 6.0) for n in range(30, 60)]
    instants = place(ReceivedTime(), *steady, *held_up)
    assert seconds(instants) == pytest.approx([n / 10 for n in range(60)], abs=0.06)
    assert not any(broken(instants))


def test_frames_that_waited_at_the_start_do_not_put_the_rest_late() -> None:
    burst = [(n / 10, 1.0) for n in range(11)]
    instants = place(ReceivedTime(), *burst, (1.1, 1.1), (1.2, 1.2))
    assert seconds(instants)[-2:] == [1.1, 1.2]
    assert not any(broken(instants))


@pytest.mark.parametrize("pts", [-30.0, 30.0, 2.0**33 / 90_000])
def test_a_jump_of_the_timestamps_is_a_break_and_time_goes_on(pts: float) -> None:
    instants = place(ReceivedTime(), (10.0, 0.0), (10.1, 0.1), (pts, 0.2), (pts + 0.1, 0.3))
    assert broken(instants) == [False, False, True, False]
    assert seconds(instants) == [0.0, 0.1, 0.2, 0.3]


def test_lost_frames_are_a_break() -> None:
    instants = place(ReceivedTime(), (0.0, 0.0), (0.1, 0.1), (5.0, 5.0), (5.1, 5.1))
    assert broken(instants) == [False, False, True, False]


def test_the_long_steps_of_a_slow_camera_are_no_breaks() -> None:
    instants = place(FileTime(EPOCH, 10.0), *[(n * 10.0, 0.0) for n in range(5)])
    assert broken(instants) == [False, True, False, False, False]


def test_frames_without_a_timestamp_are_placed_when_received() -> None:
    instants = place(ReceivedTime(), (None, 0.0), (0.1, 0.0), (0.2, 0.1))
    assert seconds(instants) == [0.0, 0.0, 0.1]


@pytest.mark.parametrize("error", [-0.0005, 0.0005])
def test_a_camera_whose_oscillator_is_off_does_not_drift_away(error: float) -> None:
    timeline = ReceivedTime()
    for n in range(20_000):
        instant = timeline.place(n / 10 * (1 + error), n / 10)
    assert instant.at == pytest.approx(1_999.9, abs=0.1)


@given(
    st.lists(
        st.tuples(st.none() | st.floats(min_value=-1e6, max_value=1e6), st.floats(0.0, 20.0)),
        max_size=100,
    )
)
def test_a_live_frame_is_never_placed_later_than_it_was_received(
    frames: list[tuple[float | None, float]],
) -> None:
    timeline, received = ReceivedTime(), EPOCH
    for pts, step in frames:
        received += step
        at = timeline.place(pts, received).at
        assert received - 10.1 <= at <= received + 1e-6


def test_a_file_is_placed_at_its_start_plus_its_timestamps() -> None:
    instants = place(FileTime(EPOCH, 0.1), (1.4, 0.0), (1.5, 0.0), (1.6, 0.0))
    assert seconds(instants) == [0.0, 0.1, 0.2]


def test_a_file_without_timestamps_goes_by_its_frame_rate() -> None:
    assert seconds(place(FileTime(EPOCH, 0.1), *[(None, 0.0)] * 3)) == [0.0, 0.1, 0.2]


def test_after_a_jump_back_a_file_goes_on_where_it_was() -> None:
    instants = place(FileTime(EPOCH, 0.1), (0.0, 0), (5.9, 0), (6.0, 0), (0.0, 0), (0.1, 0))
    assert seconds(instants) == [0.0, 5.9, 6.0, 6.1, 6.2]
    assert broken(instants)[2:] == [False, True, False]


def test_a_small_step_back_in_a_file_does_not_count_when_it_jumps() -> None:
    instants = place(FileTime(EPOCH, 0.1), (4.0, 0), (5.0, 0), (4.5, 0), (0.0, 0))
    assert seconds(instants) == [0.0, 1.0, 0.5, 1.1]


def test_a_jump_ahead_in_a_file_is_kept_as_it_says() -> None:
    instants = place(FileTime(EPOCH, 0.1), (0.0, 0), (0.1, 0), (3600.0, 0))
    assert seconds(instants) == [0.0, 0.1, 3600.0]
    assert broken(instants) == [False, False, True]


@pytest.mark.parametrize(
    ("claims", "source", "offset"),
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
    claims: list[float], source: ClockSource, offset: float
) -> None:
    clock = choose_clock(claims, ClockSource.RECEIVED)
    assert (clock.source, clock.offset) == (source, offset)
