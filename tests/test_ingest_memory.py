"""A stream keeps no picture that is done with: one of 1080p takes 3 MB."""

import gc
from collections.abc import Iterator
from contextlib import nullcontext

import av
import pytest
from av.video.frame import VideoFrame
from ingest_fixtures import Clips
from recorder_fixtures import Live

from ingest.decoding import Decoder
from ingest.sights import Read, Sights


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
    live, kept = Live(), list[int]()
    with av.open(clips.recorded) as container:
        decoder = Decoder(container)
        sights = Sights(decoder, nullcontext, decodes_all=decodes_all)
        for packet in container.demux(decoder.stream):
            if not packet.size:
                break
            live.wait(len(kept) * decoder.period)
            read = Read(packet=packet, at=live.steady, waited=True, follows_loss=False)
            for sight in sights.of(read):
                live.recorder.see(sight)
            del sight
            kept.append(pictures())
    assert live.windows
    assert kept == [1] + [0] * (len(kept) - 1)  # that the first is new shows at the second
