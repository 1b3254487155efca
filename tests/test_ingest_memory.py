"""A stream keeps no picture that is done with: one of 1080p takes 3 MB."""

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from threading import Event
from typing import Self

import av
import pytest
from av.video.frame import VideoFrame

from ingest.decoding.decoder import VideoDecoder
from ingest.decoding.stream_decoder import ReceivedPacket, StreamDecoder
from ingest.frames import Frame
from ingest.worker import CameraWorker
from kit.ingest.fixtures import Clips
from kit.ingest.recorder_driver import DOCK, RecorderDriver, a_frame
from storage.log.memory_log import MemoryLog


@pytest.fixture(name="uncollected")
def suspend_collections() -> Iterator[None]:
    gc.disable()
    gc.freeze()  # what was there before is not counted
    yield
    gc.unfreeze()
    gc.enable()


def pictures() -> int:
    """Return how many pictures take memory; PyAV has an empty one at hand."""
    return sum(type(each) is VideoFrame and each.width > 0 for each in gc.get_objects())


@pytest.mark.parametrize("decodes_all", [True, False])
def test_no_picture_outlives_the_packet_that_it_came_with(
    clips: Clips, uncollected: None, decodes_all: bool
) -> None:
    live, kept, others = RecorderDriver(), list[int](), pictures()
    with av.open(clips.recorded) as container:
        decoder = VideoDecoder(container)
        sights = StreamDecoder(decoder, nullcontext, decodes_all=decodes_all)
        for packet in container.demux(decoder.stream):
            if not packet.size:
                break
            live.advance_to(len(kept) * decoder.period)
            read = ReceivedPacket(
                packet=packet, received_at=live.steady, waited=True, follows_loss=False
            )
            for sight in sights.decode(read):
                live.recorder.record(sight)
            del sight
            kept.append(pictures() - others)
    assert live.windows
    assert kept == [1] + [0] * (len(kept) - 1)  # that the first is new shows at the second


class CountingStream:
    """A stream of three frames, which counts the pictures that there are before each and after."""

    codec, width, height, rotation, pixel_aspect = "h264", 64, 48, 0, 1.0

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._others = pictures()
        self.counts = list[int]()

    def frames(self) -> Iterator[Frame]:
        for second in range(3):
            self.counts.append(pictures() - self._others)
            yield a_frame(second, second, waited=True)
        self.counts.append(pictures() - self._others)
        self._stop.set()
        yield a_frame(3, 3, waited=True)

    def skip(self) -> None:
        """Have nothing to skip."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Have nothing to close."""


def test_watched_picture_is_gone_before_the_next_is_read(uncollected: None) -> None:
    stop = Event()
    stream = CountingStream(stop)
    worker = CameraWorker(DOCK, MemoryLog(), lambda _: None, open_stream=lambda _: stream)
    worker.watch(stop)
    assert stream.counts == [0, 1, 0, 0]  # that the first is new shows at the second
