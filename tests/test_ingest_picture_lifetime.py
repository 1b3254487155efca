"""A picture is freed once its still is made, and no thread is started for it."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from av.video.frame import VideoFrame

from ingest.camera import Camera
from ingest.pictures.stills import StillSize, encode_still

CAMERA = Camera(name="dock", url="rtsp://10.0.0.21/sub")
THREADS = Path("/proc/self/task")


@pytest.fixture(name="no_collector")
def without_a_garbage_collector() -> Iterator[None]:
    """Free only what nobody refers to; picture buffers are large, and it does not count them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make_stills(count: int) -> None:
    for _ in range(count):
        picture = VideoFrame.from_ndarray(np.full((960, 1280), 90, np.uint8), format="gray")
        encode_still(picture, CAMERA, StillSize(CAMERA).update(picture, 1.0))


def count_pictures() -> int:
    return sum(type(each) is VideoFrame for each in gc.get_objects())


def test_a_picture_is_freed_once_its_still_is_made(no_collector: None) -> None:
    others = count_pictures()
    make_stills(4)
    assert count_pictures() == others


@pytest.mark.skipif(not THREADS.exists(), reason="threads are counted as Linux shows them")
def test_no_thread_is_started_to_make_a_still(no_collector: None) -> None:
    names = {each.name for each in THREADS.iterdir()}
    picture = VideoFrame.from_ndarray(np.full((960, 1280), 90, np.uint8), format="gray")
    encode_still(picture, CAMERA, (640, 480))
    assert {each.name for each in THREADS.iterdir()} == names
