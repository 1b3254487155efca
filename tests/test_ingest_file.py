import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Disposition
from PIL import Image

from ingest.camera import Camera
from ingest.errors import BadVideo
from ingest.files.coverage import FileCoverage
from ingest.files.video_file import FrameRate, VideoFile, duration_of
from ingest.files.windows import VideoWindows
from ingest.frames import Frame
from kit.ingest.coded_video import add_video_stream
from kit.ingest.fixtures import FPS, Clips, concatenate, playlist, write_clip
from storage.records.records import ClockSource, Window, WindowClock
from storage.records.wire import decode_window, encode_window

START = datetime(2026, 1, 1, tzinfo=UTC)
FROM_FILE = WindowClock(source=ClockSource.FILE, offset=0.0)


def a_camera(fps: float, still_side: int = 640) -> Camera:
    return Camera(
        name="dock", url="rtsp://dock/sub", fps=fps, stills_per_window=8, still_side=still_side
    )


def windows_of(path: Path, *, fps: float = 2.0, still_side: int = 640) -> list[Window]:
    return list(VideoWindows(a_camera(fps, still_side), path, START))


def looked_at(path: Path, *, fps: float = 2.0) -> tuple[list[Window], FileCoverage]:
    film = VideoWindows(a_camera(fps), path, START)
    return list(film), film.coverage


def skips(coverage: FileCoverage) -> list[tuple[str, float]]:
    """Return why and for how many seconds each part was not looked at."""
    return [(str(each.reason), round(each.seconds, 3)) for each in coverage.skipped]


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


def test_a_join_of_recordings_cuts_the_window_in_hand_and_is_a_gap(clips: Clips) -> None:
    windows, coverage = looked_at(clips.jumping_file)
    cut = [(0.0, 3.5, False), (4.0, 5.5, False), (6.0, 9.5, True), (10.0, 11.5, False)]
    assert spans(windows) == cut
    assert (coverage.seconds, skips(coverage), coverage.joins) == (12.0, [], 1)
    assert duration_of(clips.jumping_file) == pytest.approx(12.0, abs=0.01)
    stills = [still.at for window in windows for still in window.stills]
    assert all(later - earlier >= timedelta(seconds=0.4) for earlier, later in pairwise(stills))


def test_a_change_of_size_is_no_loss(clips: Clips) -> None:
    windows, coverage = looked_at(clips.resized_file)
    assert coverage.watched_seconds == coverage.seconds == 12.0
    assert [window.stills[0].width for window in windows] == [320, 320, 640, 640]


def write_stamped(
    path: Path,
    stamps: Sequence[float],
    form: str,
    *,
    codec: str = "libx264",
    sound: float = 0.0,
    sound_is_last: bool = False,
) -> Path:
    """Encode a picture at each timestamp, in seconds; `sound` seconds of silence come first."""
    tick, options = Fraction(1, 1000), {"preset": "ultrafast", "tune": "zerolatency", "g": "10"}
    with av.open(path, "w", format=form) as container:
        voices = [] if sound_is_last else add_voice(container, sound)
        stream = add_video_stream(container, codec, FPS, options if codec[:3] == "lib" else {})
        stream.width, stream.height = 320, 240
        stream.pix_fmt = "yuv420p" if codec[:3] == "lib" else "yuvj420p"
        stream.time_base = stream.codec_context.time_base = tick
        voices += add_voice(container, sound) if sound_is_last else []
        for voice in voices:
            speak(container, voice, sound)
        for nth, stamp in enumerate(stamps):
            pixels = np.full((240, 320, 3), nth * 3 % 250, np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = round(stamp / tick), tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def add_voice(container: OutputContainer, seconds: float) -> list[AudioStream]:
    return [container.add_stream("mp2", rate=16000, layout="mono")] if seconds else []


def speak(container: OutputContainer, voice: AudioStream, seconds: float) -> None:
    for nth in range(round(seconds * 16000 / 1152)):
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), layout="mono")
        silence.rate, silence.pts, silence.time_base = 16000, nth * 1152, Fraction(1, 16000)
        container.mux(voice.encode(silence))


def bursts(count: int, seconds: int, pause: float) -> list[float]:
    """Return timestamps, ten a second, of bursts with pauses between them."""
    return [
        nth * (seconds + pause) + frame / FPS
        for nth in range(count)
        for frame in range(seconds * FPS)
    ]


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_pauses_cost_nothing_but_themselves(form: str, tmp_path: Path) -> None:
    film = write_stamped(tmp_path / "motion", bursts(6, 7, 5.0), form)
    windows, coverage = looked_at(film, fps=1.0)
    assert (coverage.seconds, coverage.watched_seconds) == (67.0, 42.0)
    assert skips(coverage) == [("pause", 5.0)] * 5
    assert [len(window.stills) for window in windows] == [8] * 6
    assert [window.after_gap for window in windows] == [False] + [True] * 5
    assert (windows[1].start - START).total_seconds() == 12.0


def test_a_recorder_that_skips_what_does_not_change_is_looked_at_as_a_whole(
    tmp_path: Path,
) -> None:
    film = write_stamped(tmp_path / "motion", bursts(19, 1, 2.6), "matroska")
    _, coverage = looked_at(film, fps=1.0)
    assert coverage.seconds > 65
    assert (coverage.watched_seconds, skips(coverage)) == (coverage.seconds, [])


def test_a_recording_that_is_shorter_than_a_window_is_looked_at(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "doorbell.mp4", frames=20)
    (window,), coverage = looked_at(film, fps=1.0)
    seen = [(still.at - START).total_seconds() for still in window.stills]
    assert seen == pytest.approx([0.0, 0.6, 1.3, 1.9], abs=0.25)
    assert (coverage.seconds, coverage.watched_seconds) == (2.0, 2.0)


def test_the_end_of_a_recording_is_looked_at_by_stills_that_are_closer(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "night.mp4", frames=104)
    windows, coverage = looked_at(film, fps=1.0)
    assert [len(window.stills) for window in windows] == [8, 4]
    assert windows[-1].end - START == timedelta(seconds=10.3)
    assert coverage.watched_seconds == coverage.seconds == 10.4


def test_fewer_than_four_pictures_are_too_short(tmp_path: Path) -> None:
    film = write_clip(tmp_path / "glimpse.mp4", frames=3)
    windows, coverage = looked_at(film)
    assert (windows, coverage.watched_seconds, skips(coverage)) == ([], 0.0, [("too_short", 0.3)])


def test_a_still_every_few_seconds_is_a_recording(tmp_path: Path) -> None:
    film = write_stamped(tmp_path / "lapse", [5.0 * nth for nth in range(16)], "matroska")
    windows, coverage = looked_at(film, fps=1.0)
    assert [len(window.stills) for window in windows] == [8, 8]
    assert coverage.watched_seconds == coverage.seconds == 80.0


@pytest.mark.parametrize("form", ["mpegts", "mp4", "matroska"])
def test_a_jump_of_a_day_dates_nothing_tomorrow(form: str, tmp_path: Path) -> None:
    stamps = [nth / FPS + (nth >= 40) * 25 * 3600.0 for nth in range(80)]
    film = write_stamped(tmp_path / "jump", stamps, form)
    windows, coverage = looked_at(film)
    assert windows[-1].end - START < timedelta(seconds=8)
    assert (coverage.seconds, skips(coverage), coverage.joins) == (8.0, [], 1)
    assert duration_of(film) == pytest.approx(8.0, abs=0.01)


def test_a_pause_of_hours_is_a_pause(tmp_path: Path) -> None:
    stamps = [nth / FPS + (nth >= 40) * 7200.0 for nth in range(80)]
    windows, coverage = looked_at(write_stamped(tmp_path / "night", stamps, "mp4"))
    assert windows[-1].end - START > timedelta(hours=2)
    assert (skips(coverage), coverage.joins) == ([("pause", 7200.0)], 0)


def test_pictures_that_come_after_the_sound_are_dated_so(tmp_path: Path) -> None:
    stamps = [5 + nth / FPS for nth in range(80)]
    film = write_stamped(tmp_path / "sound.mkv", stamps, "matroska", sound=13.0)
    windows, coverage = looked_at(film)
    assert (windows[0].start - START).total_seconds() == pytest.approx(5.0, abs=0.1)
    assert skips(coverage) == [("no_picture", pytest.approx(5.0, abs=0.1))]


def damaged(film: Path, *, begin: float, end: float) -> Path:
    """Overwrite a part of an mp4's pictures, given as shares of them."""
    data = bytearray(film.read_bytes())
    first, last = data.index(b"mdat") + 4, data.index(b"moov") - 4
    begin_at, end_at = (first + round((last - first) * share) for share in (begin, end))
    data[begin_at:end_at] = bytes([0xFF]) * (end_at - begin_at)
    broken = film.with_name("damaged.mp4")
    broken.write_bytes(data)
    return broken


@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.4), (0.35, 0.65), (0.6, 1.0)])
def test_damaged_video_is_told_wherever_it_is(
    begin: float, end: float, clips: Clips, tmp_path: Path
) -> None:
    film = tmp_path / "whole.mp4"
    film.write_bytes(clips.recorded.read_bytes())
    windows, coverage = looked_at(damaged(film, begin=begin, end=end))
    lost = [seconds for reason, seconds in skips(coverage) if reason == "damaged"]
    assert len(lost) == 1
    assert 1.0 < lost[0] < 3.5
    assert coverage.seconds == pytest.approx(6.0, abs=0.05)
    assert 2.0 < coverage.watched_seconds < 5.0
    assert sum(window.after_gap for window in windows) == (0 < begin < end < 1)


def test_frames_with_visible_damage_are_left_out(clips: Clips, tmp_path: Path) -> None:
    data = bytearray(clips.recorded.read_bytes())
    start, end = data.index(b"mdat"), data.index(b"moov")
    for place in range(start + 2_000, end, 97):
        data[place] ^= 0x5A
    spotted = tmp_path / "damaged.mp4"
    spotted.write_bytes(data)
    with VideoFile(spotted) as video:
        sights = list(video.frames())
    frames = [sight for sight in sights if isinstance(sight, Frame)]
    assert not any(frame.picture.is_corrupt for frame in frames)
    assert len(sights) == 60  # each picture that is left out is told
    assert len(frames) < 50


def test_of_several_tracks_the_first_is_looked_at_and_a_cover_is_none(tmp_path: Path) -> None:
    film = tmp_path / "two.mkv"
    with av.open(film, "w", format="matroska") as container:
        for size in (320, 160):
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = size, 120, "yuv420p"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        for nth in range(60):
            pixels = np.full((120, 320, 3), nth, np.uint8)
            for stream in container.streams.video[:2]:
                picture = av.VideoFrame.from_ndarray(pixels[:, : stream.width], format="rgb24")
                picture.pts, picture.time_base = nth, Fraction(1, FPS)
                container.mux(stream.encode(picture))
        for stream in container.streams.video[:2]:
            container.mux(stream.encode())
    windows = VideoWindows(a_camera(2.0), film, START)
    assert {still.width for window in windows for still in window.stills} == {320}
    assert windows.notes == ["it has several video tracks: the first was read"]


def test_a_sound_track_that_begins_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    stamps = [nth / FPS for nth in range(60)]
    silent = write_stamped(tmp_path / "silent.ts", stamps, "mpegts")
    loud = write_stamped(tmp_path / "loud.ts", stamps, "mpegts", sound=6.0, sound_is_last=True)
    padding = tmp_path / "padding"  # FFmpeg looks for tracks in the first 5 MB, and at the end
    padding.write_bytes((bytes([0x47, 0x1F, 0xFF, 0x10]) + bytes(184)) * 40_000)  # null packets
    both = concatenate(tmp_path / "both.ts", silent, padding, loud, padding, silent)
    film = VideoWindows(a_camera(2.0), both, START)
    assert [len(window.stills) for window in film] == [8, 4] * 3
    assert film.notes == ["a track that starts in the middle of it was not read"]
    assert film.coverage.watched_seconds == pytest.approx(18.0, abs=0.1)


def test_what_a_file_that_is_cut_off_states_and_has_not_is_told(
    clips: Clips, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.mkv"
    write_stamped(whole, [nth / FPS for nth in range(200)], "matroska")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _, coverage = looked_at(cut)
    ((reason, seconds),) = skips(coverage)
    assert reason in ("no_picture", "damaged")
    assert coverage.seconds == pytest.approx(20.0, abs=0.1)
    assert coverage.watched_seconds == pytest.approx(20.0 - seconds, abs=0.01)
    assert 7 < seconds < 13


def test_the_rate_of_a_raw_stream_is_a_guess_or_is_given(tmp_path: Path) -> None:
    film = write_stamped(
        tmp_path / "raw.mjpeg", [nth / FPS for nth in range(80)], "mjpeg", codec="mjpeg"
    )
    guessed = VideoWindows(a_camera(2.0), film, START)
    assert list(guessed)
    assert guessed.framerate == FrameRate(fps=25.0, is_guess=True)
    assert (guessed.coverage.seconds, duration_of(film)) == (3.2, 3.2)
    given = VideoWindows(a_camera(2.0), film, START, framerate=10.0)
    assert list(given)
    assert given.framerate == FrameRate(fps=10.0, is_guess=False)
    assert (given.coverage.seconds, duration_of(film, 10.0)) == (8.0, 8.0)


def test_a_raw_stream_that_states_its_rate_goes_by_it(clips: Clips) -> None:
    film = VideoWindows(a_camera(2.0), clips.plain, START)
    assert list(film)
    assert film.framerate == FrameRate(fps=10.0, is_guess=False)
    with pytest.raises(BadVideo, match="it has timestamps: leave the frame rate out"):
        VideoWindows(a_camera(2.0), clips.recorded, START, framerate=10.0)


def test_the_share_that_is_read_grows_to_the_whole(clips: Clips) -> None:
    shares = list[float]()
    assert list(VideoWindows(a_camera(2.0), clips.jumping_file, START).read(shares.append))
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1
    assert 0.9 < shares[-1] <= 1


def test_too_large_pictures_are_refused_also_when_they_come_later(
    clips: Clips, tmp_path: Path
) -> None:
    too_large = write_clip(tmp_path / "large.h264", size=(4112, 4112), frames=4)
    with pytest.raises(BadVideo, match="too many pixels"):
        windows_of(too_large)
    growing = concatenate(tmp_path / "growing.h264", clips.plain, too_large)
    widths = {still.width for window in windows_of(growing, fps=10.0) for still in window.stills}
    assert widths == {320}


def test_duration_of_a_file(clips: Clips) -> None:
    assert duration_of(clips.recorded) == 6.0
    assert duration_of(clips.plain) == 6.0


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


def write_nothing(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def write_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def write_unfinished(path: Path) -> Path:
    """Write what a recorder leaves that lost its power: pictures without an index."""
    data = write_clip(path).read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    return path


def write_unknown(path: Path) -> Path:
    """Write a video of a kind that nobody decodes."""
    data = write_clip(path).read_bytes()
    place = data.rindex(b"avc1")
    path.write_bytes(data[:place] + b"xyz1" + data[place + 4 :])
    return path


def write_garbage(path: Path) -> Path:
    return damaged(write_clip(path), begin=0.0, end=1.0)


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (write_text, "notes.mp4", "it is not a video"),
        (write_sound, "voice.wav", "there is no video track"),
        (write_nothing, "empty.mp4", "it is empty: choose another file"),
        (write_pipe, "pipe.mp4", "it is a pipe, a socket or a device: name a file"),
        (write_unfinished, "lost.mp4", "the recorder did not finish this file"),
        (write_unknown, "unknown.mp4", "its codec is unknown: set the camera to H.264"),
        (write_garbage, "damaged.mp4", "no frame of it can be decoded"),
        (lambda _: Path("/dev/zero"), "x", "it is a pipe, a socket or a device"),
        (lambda path: path, "none.mp4", r"it cannot be read \(No such file or directory\)"),
        (lambda path: path.parent, "", "it is a directory: name a file"),
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
