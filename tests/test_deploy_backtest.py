import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from deploy.backtest.video import BacktestResult, run_backtest
from deploy.cli.render import backtest
from deploy.config.settings_file import read_settings
from kit.deploy.command import longwatch
from kit.ingest.fixtures import FPS, write_clip

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = """\
cameras: {{dock: {{url: "rtsp://10.0.0.21/sub", window: 4s}}}}
questions: {{any: {{ask: "Is anything unusual happening?", every: {every}}}}}
rules: [{{name: always, when: any, above: 0.0001}}]
model: {{name: {model}}}
"""


@pytest.fixture(name="site")
def make_site(tmp_path: Path, checkpoint: Path) -> Path:
    return write_site(tmp_path, checkpoint, "4s")


def write_site(folder: Path, checkpoint: Path, every: str) -> Path:
    file = folder / "site.yaml"
    file.write_text(SITE.format(every=every, model=checkpoint))
    return file


def write_motion(path: Path, bursts: int, seconds: int, pause: float) -> Path:
    """Encode what a recorder writes that stands still between the bursts."""
    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(FPS)}
        for nth in range(bursts * seconds * FPS):
            burst, frame = divmod(nth, seconds * FPS)
            pixels = np.full((240, 320, 3), nth * 3 % 250, np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = round((burst * (seconds + pause)) * FPS) + frame
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def run(site: Path, video: Path) -> BacktestResult:
    return run_backtest(read_settings(site), "dock", video, BEGIN, lambda _: None)


def text_of(table: Table) -> str:
    console = Console(width=160, file=StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_it_says_what_would_have_fired(site: Path) -> None:
    test = run(site, write_clip(site.parent / "night.mp4", frames=120))
    fields = backtest.backtest_fields(test)
    assert (fields["windows"], fields["findings"], fields["unanswered"]) == (3, 3, 0)
    assert (fields["seconds"], fields["looked_at"], fields["skipped"]) == (12.0, 12.0, [])
    assert (fields["joins"], fields["notes"], fields["framerate"]) == (0, (), None)
    (fired,) = fields["incidents"]
    assert (fired["rule"], fired["opened_at"]) == ("always", "2026-03-01T12:00:03+00:00")
    assert 0 < fired["peak_score"] < 1
    assert test.speed > 1
    assert "2026-03-01 12:00:03Z" in text_of(backtest.backtest_table(test))


def test_it_says_what_was_looked_at_and_what_not_and_why(site: Path) -> None:
    test = run(site, write_motion(site.parent / "motion.mkv", bursts=3, seconds=8, pause=20.0))
    fields = backtest.backtest_fields(test)
    assert (fields["windows"], fields["seconds"], fields["looked_at"]) == (6, 64.0, 24.0)
    assert [(part["reason"], part["seconds"]) for part in fields["skipped"]] == [("pause", 20)] * 2
    assert fields["skipped"][0]["start"] == "2026-03-01T12:00:08+00:00"
    assert fields["skipped"][0]["end"] == "2026-03-01T12:00:28+00:00"
    json.dumps(fields)
    told = text_of(backtest.coverage_table(test.coverage))
    assert "looked at" in told
    assert "24.0" in told
    assert "a pause in the recording" in told
    assert "40.0" in told
    assert "looked at 24 of 64 s" in list(backtest.backtest_notes(test))[-1]


def test_windows_are_read_where_nothing_is_asked(site: Path) -> None:
    text = site.read_text()
    question = text[text.index("questions:") : text.index("rules:")]
    health = "{name: down, health: camera_down}"
    text = text.replace(question, "").replace("{name: always, when: any, above: 0.0001}", health)
    site.write_text(text)
    test = run(site, write_clip(site.parent / "night.mp4", frames=120))
    assert (test.windows, test.findings) == (3, 0)


@pytest.mark.parametrize("frames", [280, 300])
def test_the_last_window_is_judged_though_it_is_not_due(
    frames: int, tmp_path: Path, checkpoint: Path
) -> None:
    site = write_site(tmp_path, checkpoint, "16s")
    video = write_clip(tmp_path / "night.mp4", frames=frames)
    test = run(site, video)
    assert test.coverage.watched_seconds == frames / FPS
    ends = [(ends - BEGIN).total_seconds() for ends in ends_of(test)]
    assert ends[-1] > frames / FPS - 1.5


def ends_of(test: BacktestResult) -> Iterator[datetime]:
    """Return the ends of the findings that the one incident rests on: each is above the rule."""
    (fired,) = test.fired_incidents
    assert len(fired.incident.evidence) == test.findings
    yield fired.incident.first_seen_at
    yield fired.incident.last_seen_at


def test_progress_goes_to_the_end_and_never_beyond_or_back(site: Path) -> None:
    told = list[float]()
    video = write_motion(site.parent / "motion.mkv", bursts=2, seconds=8, pause=3600.0)
    run_backtest(read_settings(site), "dock", video, BEGIN, told.append)
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert len(told) > 20
    assert max(later - earlier for earlier, later in pairwise([0.0, *told])) < 0.3


@pytest.mark.parametrize("day", ["1970-01-01T00:00:00", "8999-12-31T23:59:59"])
def test_a_recording_may_be_of_any_time(day: str, site: Path) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
    video = write_clip(site.parent / "night.mp4", frames=120)
    test = run_backtest(read_settings(site), "dock", video, begin, lambda _: None)
    (fired,) = test.fired_incidents
    assert fired.incident.opened_at == begin + timedelta(seconds=3)


@pytest.mark.slow
def test_nothing_looked_at_is_an_error_that_says_why(site: Path) -> None:
    video = write_clip(site.parent / "glimpse.mp4", frames=3)
    said = longwatch("backtest", "-c", site, video, "--json")
    assert said.returncode == 1
    assert json.loads(said.stdout)["looked_at"] == 0
    (line,) = said.stderr.splitlines()
    assert line.startswith(f"{video}: nothing of its 0.3 s was looked at (too short, fewer than 4")


@pytest.mark.slow
def test_a_guessed_rate_is_told(site: Path) -> None:
    raw = site.parent / "raw.mjpeg"
    with av.open(raw, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for nth in range(80):
            pixels = np.full((240, 320, 3), nth * 3, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    os.utime(raw, (BEGIN.timestamp(), BEGIN.timestamp()))
    guessed = longwatch("backtest", "-c", site, raw)
    assert guessed.returncode == 0, guessed.stderr
    assert "read at 25 frames a second, a guess" in guessed.stdout
    assert "looked at 3 of 3 s" in guessed.stdout
    given = longwatch("backtest", "-c", site, raw, "--framerate", 10, "--json")
    fields = json.loads(given.stdout)
    assert (fields["looked_at"], fields["framerate"]) == (8.0, {"fps": 10.0, "is_guess": False})
    (fired,) = fields["incidents"]
    assert fired["opened_at"] == "2026-03-01T11:59:55+00:00"  # the file was written at its end
