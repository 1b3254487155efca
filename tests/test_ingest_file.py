import socket
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from ingest_fixtures import Clips, joined, playlist, write_clip
from PIL import Image

from ingest.camera import Camera
from ingest.errors import BadVideo
from ingest.probe import probe
from ingest.source import Source
from ingest.video_file import duration_of, windows_of_file
from storage.records import Clock, ClockSource, Window
from storage.wire import decode_window, encode_window

START = datetime(2026, 1, 1, tzinfo=UTC)
FROM_FILE = Clock(source=ClockSource.FILE, offset=0.0)


def windows_of(path: Path, *, fps: float = 2.0, still_side: int = 640) -> list[Window]:
    camera = Camera(
        name="dock", url="rtsp://dock/sub", fps=fps, stills_per_window=8, still_side=still_side
    )
    return list(windows_of_file(camera, path, START))


def spans(windows: list[Window]) -> list[tuple[float, float, bool]]:
    """Return start and end of each window in seconds, and whether a gap lies before it."""
    return [
        (
            (window.start - START).total_seconds(),
            (window.end - START).total_seconds(),
            window.after_gap,
        )
        for window in windows
    ]


def test_a_video_becomes_windows_and_the_rest_a_shorter_one(clips: Clips) -> None:
    windows = windows_of(clips.recorded)
    assert spans(windows) == [(0.0, 3.5, False), (4.0, 5.5, False)]
    assert {window.clock for window in windows} == {FROM_FILE}
    assert [decode_window(encode_window(window)) for window in windows] == windows


def test_stills_are_jpegs_of_the_size_that_was_asked_for(clips: Clips) -> None:
    still = windows_of(clips.recorded, still_side=160)[0].stills[0]
    picture = Image.open(BytesIO(still.jpeg))
    assert (picture.format, picture.size) == ("JPEG", (160, 120))
    assert (still.width, still.height) == (160, 120)
    pixels = np.asarray(picture.convert("L"))
    assert pixels[50, 10] > 180
    assert pixels[100, 140] < 90


def test_small_pictures_are_not_blown_up(clips: Clips) -> None:
    still = windows_of(clips.recorded, still_side=4096)[0].stills[0]
    assert (still.width, still.height) == (320, 240)


def test_a_video_without_timestamps_goes_by_its_frame_rate(clips: Clips) -> None:
    assert spans(windows_of(clips.plain)) == [(0.0, 3.5, False), (4.0, 5.5, False)]


def test_a_change_of_size_drops_the_window_in_hand_and_is_a_gap(clips: Clips) -> None:
    windows = windows_of(clips.resized_file)
    assert spans(windows) == [(0.0, 3.5, False), (6.0, 9.5, True), (10.0, 11.5, False)]
    assert [window.stills[0].width for window in windows] == [320, 640, 640]


def test_a_jump_in_time_drops_the_window_in_hand_and_is_a_gap(clips: Clips) -> None:
    windows = windows_of(clips.jumping_file)
    assert spans(windows) == [(0.0, 3.5, False), (6.0, 9.5, True), (10.0, 11.5, False)]
    stills = [still.at for window in windows for still in window.stills]
    assert all(later - earlier >= timedelta(seconds=0.4) for earlier, later in pairwise(stills))


def test_damaged_packets_are_skipped(clips: Clips, tmp_path: Path) -> None:
    data = bytearray(clips.recorded.read_bytes())
    start, end = data.index(b"mdat"), data.index(b"moov")
    third = (end - start) // 3
    data[start + third : end - third] = bytes([0xFF]) * (end - start - 2 * third)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    (after_the_damage,) = windows_of(damaged)
    assert after_the_damage.start > START
    assert after_the_damage.after_gap


def test_frames_with_visible_damage_are_left_out(clips: Clips, tmp_path: Path) -> None:
    data = bytearray(clips.recorded.read_bytes())
    start, end = data.index(b"mdat"), data.index(b"moov")
    for place in range(start + 2_000, end, 97):
        data[place] ^= 0x5A
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    with Source(Camera(name="dock", url=str(damaged), live=False)) as source:
        assert not any(frame.picture.is_corrupt for frame in source.frames())


def test_too_large_pictures_are_refused_also_when_they_come_later(
    clips: Clips, tmp_path: Path
) -> None:
    too_large = write_clip(tmp_path / "large.h264", size=(4112, 4112), frames=4)
    with pytest.raises(BadVideo, match="more pixels than can be taken"):
        windows_of(too_large)
    growing = joined(tmp_path / "growing.h264", clips.plain, too_large)
    widths = {still.width for window in windows_of(growing, fps=10.0) for still in window.stills}
    assert widths == {320}


def test_duration_and_probe_of_a_file(clips: Clips) -> None:
    assert duration_of(clips.recorded) == 6.0
    assert duration_of(clips.plain) == 6.0
    found = probe(str(clips.recorded))
    assert (found.codec, found.width, found.height) == ("h264", 320, 240)
    assert found.fps == pytest.approx(10.0)
    assert found.keyframe_interval == pytest.approx(1.0)
    assert found.clock == FROM_FILE


def write_sound(path: Path) -> Path:
    with av.open(path, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    return path


def write_text(path: Path) -> Path:
    path.write_text("Not a video at all.\n" * 100)
    return path


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (write_text, "notes.mp4", "it is not a video"),
        (write_sound, "voice.wav", "there is no video track"),
        (lambda path: path, "none.mp4", r"it cannot be read \(No such file or directory\)"),
        (lambda path: path.parent, "", r"it cannot be read \(Is a directory\)"),
    ],
)
def test_what_is_no_video_is_refused_in_one_clear_line(
    write: object, name: str, words: str, tmp_path: Path
) -> None:
    assert callable(write)
    path = write(tmp_path / name)
    with pytest.raises(BadVideo, match=words) as refused:
        windows_of(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_file_cannot_make_us_open_a_connection(tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        path.write_bytes(playlist(f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        server.settimeout(0.5)
        with pytest.raises(BadVideo):
            windows_of(path)
        with pytest.raises(TimeoutError):
            server.accept()
