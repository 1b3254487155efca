"""Whatever a camera says and sends, the source gives pictures or one line about why not."""

import sys
from pathlib import Path

import pytest
from fuzz_streams import fuzz
from ingest_fixtures import a_camera, wait_until
from rtsp_camera import RtspCamera
from server_clips import CODECS, write_elementary

from ingest.errors import CameraLost
from ingest.source import Source


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_hostile_streams_end_in_pictures_or_one_line() -> None:
    figures = fuzz(range(100), sys.stderr.buffer, jobs=4)
    assert len(figures.outcomes) == 100
    assert not figures.faults, str(figures)
    assert sum(each.pictures > 0 for each in figures.outcomes) > 30


def test_a_codec_that_nobody_knows_is_one_line_and_leaves_nothing_open(tmp_path: Path) -> None:
    clip = write_elementary(tmp_path / "a.h264", CODECS["h264"])
    with RtspCamera(clip, mangles=lambda data: data.replace(b"H264/", b"XYZ4/")) as camera:
        with pytest.raises(CameraLost, match="cannot be decoded: set the camera to"):
            Source(a_camera(camera.url))
        wait_until(lambda: not camera.readers, 2)
