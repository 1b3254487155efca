"""How pictures become windows on the right clock, and who is named where there are none."""

import itertools
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from kit.ingest.recorder_driver import DOCK, EPOCH, RecorderDriver, a_frame
from storage.errors import StorageFull
from storage.log.memory_log import MemoryLog
from storage.records.claims import decode_claim
from storage.records.records import ClockSource, CoverageState
from storage.records.topics import COVERAGE, WINDOWS

LONGER = replace(DOCK, stills_per_window=8)


def test_making_a_recorder_takes_no_time_of_the_camera() -> None:
    steady, log = itertools.count(step=0.01), MemoryLog()
    recorder = Recorder(DOCK, log, HostClock(wall=lambda: EPOCH, steady=lambda: next(steady)))
    recorder.record_loss("it does not answer")
    states = [decode_claim(entry.value).state for entry in log.read(COVERAGE, 0)]
    assert CoverageState.STREAM_BROKEN not in states
    assert states[0] is CoverageState.INGEST_DOWN


def test_window_goes_by_the_clock_of_the_camera_and_the_ledger_by_the_hosts() -> None:
    live = RecorderDriver(camera_ahead=-0.3)
    live.feed(*range(8))
    assert live.stills == [[n - 0.3 for n in range(4)], [n - 0.3 for n in range(4, 8)]]
    assert live.claimed_spans[-2:] == [(0, 4, "waiting"), (4, 8, "waiting")]
    clock = live.windows[0].clock
    assert (clock.source, round(clock.offset, 3)) == (ClockSource.CAMERA_NTP, -0.3)


@pytest.mark.parametrize("ahead", [40.0, -40.0])
def test_camera_clock_that_is_wrong_does_not_bend_the_ledger(ahead: float) -> None:
    live = RecorderDriver(camera_ahead=ahead)
    live.feed(*range(8))
    live.recorder.record_loss("it fell silent")
    live.advance_to(20)
    live.recorder.start_connection()
    live.feed(*range(20, 28))
    assert live.stills[0] == [n + ahead for n in range(4)]
    assert live.stills[-1] == [n + ahead for n in range(24, 28)]
    assert [told for told in live.claimed_spans if told[0] >= 8] == [
        (8, 15, "camera_down"),
        (15, 20, "camera_down"),
        (20, 24, "waiting"),
        (24, 28, "waiting"),
    ]


@pytest.mark.parametrize("step", [-30.0, 30.0])
def test_step_of_the_cameras_clock_cuts_a_window_and_loses_nothing(step: float) -> None:
    live = RecorderDriver(camera_ahead=0.0)
    live.feed(*range(4))
    live.camera_ahead = step
    live.feed(*range(4, 12))
    assert live.stills[1] == [n + step for n in range(4, 8)]
    assert [window.after_gap for window in live.windows] == [True, True, False]
    assert [window.is_set_back for window in live.windows] == [False, step < 0, False]
    assert live.claimed_spans[-3:] == [(0, 4, "waiting"), (4, 8, "waiting"), (8, 12, "waiting")]


def test_small_step_back_of_the_cameras_clock_is_taken_in_little_by_little() -> None:
    live = RecorderDriver(camera_ahead=0.0)
    live.feed(*range(4))
    live.camera_ahead = -1.5
    live.feed(*range(4, 16))
    stills = [at for window in live.stills for at in window]
    assert stills == sorted(set(stills))
    assert not any(window.is_set_back for window in live.windows)
    assert live.stills[-1] == [n - 1.5 for n in range(12, 16)]


def test_stills_in_hand_when_the_cameras_clock_steps_are_a_window_of_their_own() -> None:
    live = RecorderDriver(camera=LONGER)
    live.camera_ahead = 0.0
    live.feed(*range(4))
    live.camera_ahead = 10.0
    live.feed(*range(4, 12))
    assert live.stills == [[0, 1, 2, 3], [n + 10.0 for n in range(4, 12)]]


def test_host_that_is_set_back_is_followed_at_once() -> None:
    live = RecorderDriver()
    live.feed(*range(4))
    with capture_logs() as lines:
        live.wall_ahead = -3600.0
        live.feed(*range(4, 12))
    assert live.stills == [
        [0, 1, 2, 3],
        [n - 3600.0 for n in range(4, 8)],
        [n - 3600.0 for n in range(8, 12)],
    ]
    assert [window.is_set_back for window in live.windows] == [False, True, False]
    assert live.claimed_spans[-2:] == [(-3596, -3592, "waiting"), (-3592, -3588, "waiting")]
    (line,) = [line for line in lines if line["event"] == "the clock of this host was set"]
    assert line["seconds"] == -3600


def test_host_that_is_set_ahead_is_followed_once_it_has_lasted() -> None:
    live = RecorderDriver()
    live.feed(*range(4))
    live.wall_ahead = 3600.0
    live.feed(*range(4, 80))
    ends = [window[-1] for window in live.stills]
    assert [end for end in ends if end < 100][-1] == 63, "the old clock goes on for 60 s"
    assert ends[-1] == 3679
    (ahead,) = [told for told in live.claimed_spans if told[2] == "ingest_down" and told[1] > 3000]
    assert ahead == (64, 3664, "ingest_down")


class RefusingLog(MemoryLog):
    """A log that takes no window while it refuses."""

    refuses = False

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == WINDOWS and self.refuses:
            raise StorageFull("log.db")
        return super().append(topic, key, *values)


def test_window_after_a_refused_one_says_that_time_went_back() -> None:
    log = RefusingLog()
    live = RecorderDriver(log=log)
    live.feed(*range(4))
    live.wall_ahead, log.refuses = -3600.0, True
    live.feed(*range(4, 8))
    log.refuses = False
    live.feed(*range(8, 12))
    assert [window.is_set_back for window in live.windows] == [False, True]


def test_stall_that_the_network_made_up_for_has_its_own_times() -> None:
    live = RecorderDriver()
    live.feed(*range(4))
    live.advance_to(10)
    for second in range(4, 11):
        live.recorder.record(a_frame(second, 10.0, waited=second == 4))
    live.feed(11)
    assert live.stills == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert not any(window.after_gap for window in live.windows[1:])


def test_stall_whose_pictures_are_lost_is_a_broken_stream() -> None:
    live = RecorderDriver()
    live.feed(*range(6))
    live.feed(*range(16, 24))
    assert live.stills == [[0, 1, 2, 3], [16, 17, 18, 19], [20, 21, 22, 23]]
    assert {told[2] for told in live.claimed_spans if 4 <= told[0] < 16} == {"stream_broken"}


def test_pause_of_ours_is_ours() -> None:
    live = RecorderDriver()
    live.feed(*range(8))
    live.steady = 38.0
    live.recorder.record_loss("the stream ended")
    live.advance_to(40)
    live.recorder.start_connection()
    live.feed(*range(40, 44))
    assert [told for told in live.claimed_spans if told[0] >= 8] == [
        (8, 38, "ingest_down"),
        (38, 40, "camera_down"),
        (40, 44, "waiting"),
    ]


def test_backlog_of_a_pause_of_ours_is_no_slow_machine() -> None:
    live = RecorderDriver()
    live.feed(*range(8))
    live.steady = 38.0
    for n in range(8, 12):
        assert not live.recorder.record(a_frame(n, 38.0, waited=False))
    live.feed(*range(39, 47))
    assert "overloaded" not in {told[2] for told in live.claimed_spans}
    assert live.stills[2] == [8, 9, 10, 11], "what was kept for us is looked at"


def test_machine_that_is_too_slow_says_so_and_skips() -> None:
    live = RecorderDriver(camera=LONGER)
    live.feed(*range(4))
    with capture_logs() as lines:
        messages = []
        for n in range(12):
            live.advance_to(5.0 + 2 * n)
            messages.append(live.recorder.record(a_frame(4 + n, 5.0 + 2 * n, waited=False)))
            if messages[-1]:
                break
        newest = live.steady
        live.feed(*(newest + n for n in range(1, 9)))
    assert messages[-1]
    (line,) = [line for line in lines if "does not keep up" in line["event"]]
    assert line["behind"] > 3
    assert "overloaded" in {told[2] for told in live.claimed_spans}
    assert "camera_down" not in {told[2] for told in live.claimed_spans}


def test_data_that_is_no_picture_is_a_broken_stream_with_its_reason() -> None:
    live = RecorderDriver()
    live.feed_no_picture(1, "waiting for a keyframe")
    live.feed(*range(12, 16))
    states = [(claim.state.value, claim.reason) for claim in live.claims if claim.start]
    assert ("stream_broken", "waiting for a keyframe") in states
    live.feed(16, 17)
    live.feed_no_picture(18, "damaged video was skipped")
    live.feed(*range(21, 25))
    hole = [claim for claim in live.claims if claim.reason == "damaged video was skipped"]
    assert hole, live.claimed_spans


def test_silent_camera_is_told_by_the_deadline() -> None:
    live = RecorderDriver()
    live.feed(*range(6))
    with capture_logs() as lines:
        live.advance_to(30)
    assert live.claimed_spans[-1][1] >= 23
    assert {told[2] for told in live.claimed_spans if told[0] >= 4} == {"stream_broken"}
    assert [line["event"] for line in lines] == ["no window came in time"]


def test_slow_camera_makes_windows_and_loses_nothing() -> None:
    live = RecorderDriver(camera=LONGER)
    live.feed(*range(0, 60, 2))
    stills = [at for window in live.stills for at in window]
    assert stills == list(range(0, 2 * len(stills), 2))
    assert len(stills) >= 24
    assert not any(window.after_gap for window in live.windows[1:])


def test_relay_that_begins_with_what_it_kept_is_read_from_now_on() -> None:
    live = RecorderDriver()
    live.steady = 10.0
    for n in range(10):
        live.recorder.record(a_frame(n, 10.0, waited=False))
    live.feed(*range(11, 15))
    assert live.stills == [[10, 11, 12, 13]], "the newest that was kept, and what came then"
