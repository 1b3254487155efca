"""A recorder asks for the frames that it keeps, of a stream that has proved itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import pytest
from structlog.testing import capture_logs

from ingest.decoding.decoder import VideoDecoder
from ingest.decoding.hardware import accelerator
from ingest.decoding.stream_decoder import ReceivedPacket, StreamDecoder
from ingest.frames import CodedFrame, Frame, NoPicture
from ingest.live.source import CameraSource
from ingest.settings import DecodeSettings
from kit.ingest.coded_video import H264, RATE, opened
from kit.ingest.fixtures import GStreamerServer, a_camera
from kit.ingest.recorder_driver import RecorderDriver, a_frame
from storage.records.records import CoverageState


@dataclass
class CodedStream:
    """Frames for a recorder, 25 a second; counts those that are decoded."""

    live: RecorderDriver
    gop: int = 25
    broken: range = range(0)
    silent: range = range(0)
    decoded: list[float] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        for number in range(round(seconds * RATE)):
            if number in self.silent:
                continue
            self._see(number, number / RATE)

    def _see(self, number: int, at: float) -> None:
        def decode() -> Frame | NoPicture:
            self.decoded.append(at)
            if number in self.broken:
                return NoPicture(arrived=at, reason="smeared")
            return a_frame(at, at, waited=True)

        self.live.advance_to(at)
        if number in self.broken and self.decoded and number > self.broken[0] + RATE:
            self.live.recorder.record(NoPicture(arrived=at, reason="smeared"))
            return
        self.live.recorder.record(
            CodedFrame(
                pts=at,
                arrived=at,
                waited=True,
                is_keyframe=number % self.gop == 0,
                decode=decode,
            )
        )


@pytest.mark.parametrize(("gop", "most"), [(25, 33), (50, 33), (1000, 33)])
def test_a_recorder_asks_for_what_it_keeps_and_for_nothing_else(gop: int, most: int) -> None:
    live = RecorderDriver()
    coded = CodedStream(live, gop)
    coded.run(32.5)
    assert len(coded.decoded) == most
    stills = [second for window in live.stills for second in window]
    assert stills == [pytest.approx(second, abs=0.05) for second in range(32)]
    assert {state for _, _, state in live.claimed_spans} == {"waiting"}


def test_a_still_that_cannot_be_decoded_is_tried_again_with_the_next_frame() -> None:
    live = RecorderDriver()
    coded = CodedStream(live, gop=50, broken=range(200, 203))
    coded.run(16.5)
    assert [at for at in coded.decoded if 8.0 <= at < 9.0] == pytest.approx([8.0, 8.04, 8.08, 8.12])
    assert len([second for window in live.stills for second in window]) == 16


def test_what_cannot_be_decoded_for_long_is_a_broken_stream() -> None:
    live = RecorderDriver()
    coded = CodedStream(live, gop=50, broken=range(200, 350))
    coded.run(40.0)
    broken = [(start, end) for start, end, state in live.claimed_spans if state == "stream_broken"]
    assert broken
    assert min(start for start, _ in broken) == pytest.approx(8.0, abs=1.1)
    assert max(end for _, end in broken) == pytest.approx(14.0, abs=0.1)
    reasons = [each.reason for each in live.claims if each.state is CoverageState.STREAM_BROKEN]
    assert "smeared" in reasons


def test_a_gap_behind_what_could_not_be_decoded_has_its_reason() -> None:
    live = RecorderDriver()
    coded = CodedStream(live, gop=50, broken=range(200, 201), silent=range(201, 326))
    coded.run(24.0)
    assert "smeared" in {claim.reason for claim in live.claims}


def test_sights_are_coded_once_a_stream_has_proved_itself() -> None:
    container = opened(H264, 100)
    sights = StreamDecoder(VideoDecoder(container), nothing_told, decodes_all=False)
    found = [
        sights.decode(
            ReceivedPacket(packet=packet, received_at=0.0, waited=True, follows_loss=False)
        )
        for packet in container.demux(video=0)
        if packet.size
    ]
    kinds = [type(sight) for (sight,) in found]
    assert kinds == [Frame] * 25 + [CodedFrame] * 75
    assert [n for n, (sight,) in enumerate(found) if is_key(sight)] == [0, 25, 50, 75]
    (last,) = found[-1]
    assert isinstance(last, CodedFrame)
    frame = last.decode()
    assert isinstance(frame, Frame)
    assert (frame.pts, frame.arrived, frame.waited) == (last.pts, last.arrived, last.waited)
    with pytest.raises(RuntimeError):
        last.decode()


def is_key(sight: object) -> bool:
    assert isinstance(sight, Frame | CodedFrame)
    return sight.is_keyframe


@contextmanager
def nothing_told() -> Iterator[None]:
    yield


def test_a_real_camera_is_decoded_where_it_is_looked_at(rtsp: GStreamerServer) -> None:
    keyframe: Frame | NoPicture | None = None
    held = 0
    with CameraSource(a_camera(rtsp.url)) as source:
        for sight in source.frames():
            held += isinstance(sight, CodedFrame)
            if isinstance(sight, CodedFrame) and sight.is_keyframe:
                keyframe = sight.decode()
            if held > 25:
                break
    assert isinstance(keyframe, Frame)
    assert keyframe.picture.key_frame


def test_all_of_a_real_camera_is_decoded_where_that_is_set(rtsp: GStreamerServer) -> None:
    with CameraSource(a_camera(rtsp.url, decode=DecodeSettings(frames="all"))) as source:
        sights = list(islice(source.frames(), 40))
    assert not any(isinstance(sight, CodedFrame) for sight in sights)


def test_without_a_card_video_is_decoded_all_the_same_and_one_line_says_so(
    rtsp: GStreamerServer,
) -> None:
    if accelerator("cuda") is not None:
        pytest.skip("there is a card here")
    accelerator.cache_clear()
    with capture_logs() as lines:
        for _ in range(2):
            with CameraSource(a_camera(rtsp.url, decode=DecodeSettings(hardware="cuda"))) as source:
                sights = islice(source.frames(), 20)
                assert any(isinstance(sight, Frame) for sight in sights)
    (line,) = lines
    assert "decoded by the processor" in line["event"]
    assert line["log_level"] == "warning"
