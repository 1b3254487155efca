"""What `probe` measures and advises, by streams of which the truth is known."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli.render.probe import probe_fields, probe_parts
from ingest.errors import CameraLost
from ingest.files.video_file import VideoFile
from ingest.frames import Frame, NoPicture, StreamItem
from ingest.probe.advice import advice_for
from ingest.probe.probe import MAX_WAIT, probe
from ingest.probe.result import ProbeResult
from ingest.rtsp.authentication import Authentication
from ingest.timing.host_clock import HostClock
from kit.ingest.fixtures import Clips, GStreamerServer, write_clip
from storage.records.records import ClockSource, WindowClock

NOWHERE = "rtsp://127.0.0.1:1/cam"
EPOCH = 1_700_000_000.0
FPS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedFrame:
    """What comes of a camera at an instant: a picture, or the reason why there is none."""

    at: float
    pts: float | None = None
    is_key: bool = False
    camera_time: float | None = None
    reason: str | None = None
    waited: bool = True


@dataclass(slots=True, kw_only=True)
class ScriptedStream:
    """A stream that gives what is written, at its time, and then is lost."""

    script: Sequence[ScriptedFrame]
    pictures: tuple[VideoFrame, VideoFrame]
    now: float = 0.0
    opens_after: float = 0.5
    codec: str = "h264"
    width: int = 640
    height: int = 480
    rotation: int = 0
    pixel_aspect: float = 1.0

    def __enter__(self) -> Self:
        self.now += self.opens_after
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def skip(self) -> None:
        pass

    def frames(self) -> Iterator[StreamItem]:
        began = self.now
        for come in self.script:
            self.now = max(self.now, began + come.at)
            if come.reason is not None:
                yield NoPicture(arrived=self.now, reason=come.reason)
                continue
            yield Frame(
                picture=self.pictures[not come.is_key],
                pts=come.pts,
                arrived=self.now,
                waited=come.waited,
                camera_time=come.camera_time,
            )
        raise CameraLost("it", "the stream ended: check that the camera is up")


@pytest.fixture(scope="session", name="pictures")
def decode_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoFrame, VideoFrame]:
    """A keyframe and a picture that is none."""
    with VideoFile(write_clip(tmp_path_factory.mktemp("two") / "a.mp4", frames=3)) as video:
        key, other, *_ = (frame.picture for frame in video.frames() if isinstance(frame, Frame))
    assert (key.key_frame, other.key_frame) == (1, 0)
    return key, other


Look = Callable[..., ProbeResult]


@pytest.fixture(name="look")
def look_at_a_script(pictures: tuple[VideoFrame, VideoFrame]) -> Look:
    """Probe what is written."""

    def look(
        script: Sequence[ScriptedFrame], seconds: float = 10.0, **stream: object
    ) -> ProbeResult:
        scripted = ScriptedStream(script=script, pictures=pictures)
        for name, value in stream.items():
            setattr(scripted, name, value)
        host = HostClock(wall=lambda: EPOCH + scripted.now, steady=lambda: scripted.now)
        return probe(NOWHERE, seconds=seconds, open_stream=lambda _: scripted, host=host)

    return look


def a_script(
    seconds: float = 12.0,
    *,
    stamp: Callable[[int, float], float | None] = lambda _, at: at,
    delay: Callable[[int], float] = lambda _: 1 / FPS,
    gop: float = 2.0,
    clock: Callable[[float], float | None] = lambda _: None,
) -> list[ScriptedFrame]:
    """Return a camera's pictures: stamped, delayed, with keyframes and a clock as asked."""
    script, at, number, key = list[ScriptedFrame](), 0.0, 0, 0.0
    while at <= seconds:
        is_key = at >= key - 1e-6
        key = at + gop if is_key else key
        time = clock(at)
        script.append(ScriptedFrame(at=at, pts=stamp(number, at), is_key=is_key, camera_time=time))
        number, at = number + 1, at + delay(number)
    return script


def about(found: ProbeResult) -> list[str]:
    """Return what there is advice about."""
    return [each.about for each in advice_for(found)]


def advised(found: ProbeResult, topic: str) -> str:
    """Return the one line of advice about it."""
    (text,) = (each.text for each in advice_for(found) if each.about == topic)
    return text


def test_a_good_camera_needs_no_advice(look: Look) -> None:
    found = look(a_script(clock=lambda at: EPOCH + 0.5 + at - 0.1))
    assert found.fps == pytest.approx(FPS, abs=0.05)
    assert found.seconds == pytest.approx(10.0, abs=0.11)
    assert found.keyframes.interval == pytest.approx(2.0, abs=0.01)
    stamps = found.timestamps
    assert (stamps.missing, stamps.equal, stamps.back, stamps.ahead) == (0, 0, 0, 0)
    assert stamps.believed == 1.0
    assert stamps.rate == pytest.approx(1.0, abs=0.001)
    assert found.camera_time.clock.source is ClockSource.CAMERA_NTP
    assert found.camera_time.clock.offset == pytest.approx(-0.1, abs=0.01)
    assert advice_for(found) == ()


@pytest.mark.parametrize("rate", [0.4, 0.6, 0.84, 1.2])
def test_the_rate_of_timestamps_is_measured(look: Look, rate: float) -> None:
    found = look(a_script(stamp=lambda _, at: at * rate))
    assert found.timestamps.rate == pytest.approx(rate, abs=0.01)
    assert f"{rate:.2f} of real time" in advised(found, "timestamps")


def test_a_rate_is_measured_behind_what_a_relay_had_kept(look: Look) -> None:
    kept = [ScriptedFrame(at=0.0, pts=number / FPS, waited=False) for number in range(30)]
    then = [replace(each, pts=(each.pts or 0.0) + 3.0) for each in a_script()]
    found = look([*kept, *then])
    assert found.timestamps.rate == pytest.approx(1.0, abs=0.01)
    assert found.fps == pytest.approx(FPS, abs=0.1)
    assert found.timestamps.ahead == 0
    assert "arrivals" not in about(found)


def test_single_odd_timestamps_are_counted(look: Look) -> None:
    odd = {20: -500.0, 40: 9000.0, 60: -3.0}
    found = look(a_script(stamp=lambda number, at: at + odd.get(number, 0.0)))
    assert (found.timestamps.back, found.timestamps.ahead) == (3, 3)
    assert found.timestamps.believed > 0.9
    assert found.timestamps.rate == pytest.approx(1.0, abs=0.02)
    assert "3 jump back; 3 jump ahead" in advised(found, "timestamps")


def test_equal_and_missing_timestamps_are_counted(look: Look) -> None:
    same = look(a_script(stamp=lambda _number, _at: 7.0))
    assert same.timestamps.equal == same.pictures - 1
    assert same.timestamps.rate == pytest.approx(0.0, abs=0.01)
    assert "are the same" in advised(same, "timestamps")
    none = look(a_script(stamp=lambda _number, _at: None))
    assert none.timestamps.missing == none.pictures
    assert none.timestamps.rate is None
    assert "no timestamps" in advised(none, "timestamps")


def test_a_single_missing_timestamp_needs_no_advice(look: Look) -> None:
    found = look(a_script(stamp=lambda number, at: None if number == 5 else at))
    assert found.timestamps.missing == 1
    assert "timestamps" not in about(found)


def test_pauses_and_bursts_are_measured(look: Look) -> None:
    found = look(a_script(delay=lambda number: 2.6 if number % 10 == 0 else 0.01))
    assert found.arrivals is not None
    assert found.arrivals.pauses == 3
    assert found.arrivals.longest_pause == pytest.approx(2.6)
    assert found.arrivals.longest_burst == 10
    assert "for 2.6 s at most" in advised(found, "arrivals")


def test_a_slow_camera_is_told_its_rate(look: Look) -> None:
    found = look(a_script(40, delay=lambda _: 5.0), seconds=30)
    assert found.fps == pytest.approx(0.2)
    assert found.arrivals is not None
    assert found.arrivals.pauses == 0
    assert "fps: 0.2" in advised(found, "fps")


@pytest.mark.parametrize(
    ("clock", "source", "words"),
    [
        (lambda at: EPOCH + 0.5 + at + 40, ClockSource.CAMERA_NTP, None),
        (lambda at: EPOCH + 0.5 + at + 90, ClockSource.RECEIVED, "+90 s from ours"),
        (lambda at: EPOCH + at + 30 * (at > 5), ClockSource.RECEIVED, "its clock steps by 30"),
        (lambda _: None, ClockSource.RECEIVED, "it sends no clock"),
    ],
)
def test_the_clock_is_measured(
    look: Look, clock: Callable[[float], float | None], source: ClockSource, words: str | None
) -> None:
    found = look(a_script(clock=clock))
    assert found.camera_time.clock.source is source
    assert ("clock" in about(found)) is (words is not None)
    assert words is None or words in advised(found, "clock")


def test_when_the_clock_came_is_said(look: Look) -> None:
    found = look(a_script(clock=lambda at: EPOCH + 0.5 + at if at >= 4.95 else None))
    assert found.camera_time.after == pytest.approx(5.0, abs=0.11)
    assert found.camera_time.is_steady


def test_keyframes_far_apart_are_said(look: Look) -> None:
    one = look(a_script(gop=25))
    assert one.keyframes.count == 1
    assert one.keyframes.interval is None
    assert one.keyframes.at_least == pytest.approx(10.0, abs=0.11)
    assert "I-frame interval" in advised(one, "keyframes")
    two = look(a_script(40, gop=25), seconds=30)
    assert two.keyframes.interval == pytest.approx(25.0, abs=0.11)
    assert "25 s apart" in advised(two, "keyframes")


def test_a_keyframe_that_is_waited_for_counts_as_a_long_interval(look: Look) -> None:
    awaited = [ScriptedFrame(at=at / 10, reason="a keyframe is awaited") for at in range(250)]
    then = [replace(each, at=each.at + 25) for each in a_script(gop=25)]
    found = look([*awaited, *then])
    assert found.waits is not None
    assert found.waits.picture == pytest.approx(25.5)
    assert found.keyframes.at_least == pytest.approx(25.0)
    assert {"keyframes", "start"} <= set(about(found))
    assert "waiting for a keyframe" in advised(found, "start")
    assert found.waits.for_keyframe == pytest.approx(25.0)
    assert found.waits.reason == "a keyframe is awaited"
    assert found.left_out == ()


def test_a_smart_codec_is_named(look: Look) -> None:
    steps = iter([2.0, 8.0, 2.0, 6.0, 2.0, 2.0, 2.0])
    keys = [0.0]
    for step in steps:
        keys.append(keys[-1] + step)
    script = [
        replace(each, is_key=any(abs(each.at - key) < 0.01 for key in keys))
        for each in a_script(25)
    ]
    found = look(script, seconds=20)
    assert (found.keyframes.shortest, found.keyframes.longest) == (
        pytest.approx(2.0),
        pytest.approx(8.0),
    )
    assert "H.265+" in advised(found, "smart_codec")


def test_a_source_that_starts_on_demand_is_named(look: Look) -> None:
    found = look(a_script(), opens_after=8.0)
    assert found.waits is not None
    assert found.waits.opened == pytest.approx(8.0)
    assert "on demand: the first picture took 8.0 s" in advised(found, "start")


def test_silence_of_a_relay_and_keyframes_far_apart_are_one_thing(look: Look) -> None:
    silent = [ScriptedFrame(at=at, reason="the camera answers, no picture yet") for at in range(22)]
    then = [replace(each, at=each.at + 22) for each in a_script(gop=25)]
    found = look([*silent, *then])
    assert found.waits is not None
    assert found.waits.for_keyframe == 0.0
    assert "a relay waits for a keyframe" in advised(found, "start")


def test_a_camera_that_never_gives_a_picture_is_given_up_with_the_reason(look: Look) -> None:
    endless = [ScriptedFrame(at=at / 2, reason="damaged video was skipped") for at in range(1000)]
    with pytest.raises(CameraLost, match=r"no picture for 12\d s \(damaged video was skipped\)"):
        look(endless)
    assert len(endless) / 2 > 2 * MAX_WAIT


def test_a_camera_that_is_lost_meanwhile_is_told_with_what_was_seen(look: Look) -> None:
    found = look(a_script(6.0))
    assert found.lost is not None
    assert found.lost.startswith("the stream ended")
    assert found.pictures == 61
    assert "lost after 6.0 s" in advised(found, "lost")


def test_reasons_are_bounded(look: Look) -> None:
    many = [ScriptedFrame(at=1 + number / 100, reason=f"reason {number}") for number in range(100)]
    found = look(sorted([*a_script(), *many], key=lambda each: each.at))
    assert len(found.left_out) <= 9
    assert sum(each.count for each in found.left_out) == 100
    assert "check the network" in advised(found, "left_out")
    assert "transport: tcp" in advised(replace(found, transport="udp"), "left_out")


@pytest.mark.parametrize(
    ("rotation", "aspect", "shown"),
    [(0, 1.0, (704, 576)), (90, 1.0, (576, 704)), (180, 2.0, (1408, 576)), (270, 0.5, (576, 352))],
)
def test_the_size_is_as_shown(
    look: Look, rotation: int, aspect: float, shown: tuple[int, int]
) -> None:
    found = look(a_script(), width=704, height=576, rotation=rotation, pixel_aspect=aspect)
    assert (found.size.width, found.size.height) == shown
    fields = probe_fields(found)
    assert (fields["width"], fields["sent_width"]) == (shown[0], 704)
    assert (fields["rotation"], fields["pixel_aspect"]) == (rotation, aspect)


def test_the_substream_is_advised_for_large_pictures(look: Look) -> None:
    assert "substream" in advised(look(a_script(), width=2560, height=1440), "size")
    assert "size" not in about(look(a_script(), width=1280, height=720))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Authentication(is_needed=False), "set a password"),
        (Authentication(is_needed=True, offered=("basic",)), "basic alone"),
        (Authentication(is_needed=True, offered=("basic",), is_encrypted=True), None),
        (Authentication(is_needed=True, offered=("digest-md5", "digest-sha-256")), None),
        (Authentication(), None),
    ],
)
def test_advice_about_the_log_in(look: Look, found: Authentication, words: str | None) -> None:
    as_sights = replace(look(a_script()), authentication=found)
    assert ("authentication" in about(as_sights)) is (words is not None)
    assert words is None or words in advised(as_sights, "authentication")


def test_a_stream_over_http_is_not_asked_for_sender_reports(look: Look) -> None:
    found = replace(look(a_script()), scheme="http")
    assert "RTSP" in advised(found, "clock")
    assert "reports" not in advised(found, "clock")


INSTANTS = st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float) | st.none()
COMING = st.lists(
    st.builds(
        ScriptedFrame,
        at=st.floats(0, 0.5),
        pts=INSTANTS,
        is_key=st.booleans(),
        camera_time=INSTANTS,
        reason=st.none() | st.none() | st.sampled_from(["damaged", "a keyframe is awaited"]),
        waited=st.booleans(),
    ),
    max_size=60,
)


@given(COMING)
def test_whatever_comes_is_measured(
    pictures: tuple[VideoFrame, VideoFrame], steps: list[ScriptedFrame]
) -> None:
    ends = [0.0]
    for step in steps:
        ends.append(ends[-1] + step.at)
    script = [replace(step, at=end) for step, end in zip(steps, ends[1:], strict=True)]
    stream = ScriptedStream(script=script, pictures=pictures)
    host = HostClock(wall=lambda: EPOCH + stream.now, steady=lambda: stream.now)
    if all(step.reason for step in steps):
        with pytest.raises(CameraLost):
            probe(NOWHERE, open_stream=lambda _: stream, host=host)
        return
    found = probe(NOWHERE, open_stream=lambda _: stream, host=host)
    stamps = found.timestamps
    timed = found.pictures - stamps.missing
    assert 0 <= stamps.believed <= 1
    assert stamps.equal + stamps.back + stamps.ahead <= max(0, timed - 1)
    assert found.keyframes.count == sum(
        each.is_key and not each.reason for each in as_sights(script)
    )
    json.dumps(probe_fields(found), allow_nan=False)
    assert all(probe_parts(found))


def as_sights(script: Sequence[ScriptedFrame]) -> Iterator[ScriptedFrame]:
    """Yield what is looked at: until ten seconds after the first picture."""
    first: float | None = None
    for each in script:
        yield each
        first = each.at if first is None and each.reason is None else first
        if first is not None and each.at - first >= 10:
            return


def test_a_file_is_measured_by_its_timestamps(clips: Clips) -> None:
    found = probe(str(clips.recorded))
    assert (found.codec, found.size.width, found.size.height) == ("h264", 320, 240)
    assert found.fps == pytest.approx(10.0)
    assert found.keyframes.interval == pytest.approx(1.0)
    assert found.camera_time.clock == WindowClock(source=ClockSource.FILE, offset=0.0)
    assert (found.waits, found.arrivals, found.authentication) == (None, None, None)
    assert advice_for(found) == ()


def test_timestamps_of_a_file_that_jump_are_counted(clips: Clips) -> None:
    assert probe(str(clips.jumping_file)).timestamps.back == 1


def test_a_camera_of_gstreamer_is_measured(rtsp: GStreamerServer) -> None:
    found = probe(rtsp.url, seconds=4.0)
    assert (found.codec, found.size.width, found.size.height) == ("h264", 320, 240)
    assert found.fps == pytest.approx(10.0, abs=0.5)
    assert found.keyframes.interval == pytest.approx(1.0, abs=0.1)
    assert found.camera_time.clock.source is ClockSource.CAMERA_NTP
    assert -0.5 < found.camera_time.clock.offset < 0.1
    assert found.timestamps.rate == pytest.approx(1.0, abs=0.05)
    assert found.timestamps.believed > 0.9
    assert found.authentication is not None
    assert found.authentication.is_needed is False
