"""`longwatch probe`, as a person and a script see it."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kit.deploy.command import Command
from kit.ingest.fixtures import CANARY, Clips, write_clip
from kit.ingest.rtsp_camera import Credentials, RtspCamera


def test_a_file_is_told(tmp_path: Path, command: Command) -> None:
    video = write_clip(tmp_path / "night.mp4")
    found = json.loads(command("probe", video, "--json").stdout)
    assert (found["codec"], found["width"], found["height"]) == ("h264", 320, 240)
    assert found["keyframe_interval"] == pytest.approx(1.0)
    assert (found["scheme"], found["authentication"], found["advice"]) == ("file", None, [])
    result = command("probe", video)
    assert "320 x 240" in result.stdout
    assert result.stderr == ""


def test_a_camera_is_told_for_scripts(clips: Clips, command: Command) -> None:
    credentials = Credentials(password=CANARY, schemes=("MD5",))
    with RtspCamera(
        clips.plain, credentials=credentials, clock=lambda at: at + 90, start_up=0.5
    ) as camera:
        result = command("probe", camera.url, "--json", "--seconds", 4)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["fps"] == pytest.approx(10.0, abs=0.5)
    assert found["keyframe_interval"] == pytest.approx(1.0, abs=0.1)
    assert found["timestamps"]["rate"] == pytest.approx(1.0, abs=0.05)
    assert found["clock"]["source"] == "received"
    assert found["clock"]["offset"] == pytest.approx(90, abs=0.5)
    assert found["clock"]["is_steady"] is True
    assert found["authentication"]["offered"] == ["digest-md5"]
    assert 0.5 < found["first_picture"]["picture"] < 6
    assert [each["about"] for each in found["advice"]] == ["clock"]
    assert result.stderr.splitlines()[0].startswith("connected after ")
    assert CANARY not in result.stdout + result.stderr


def test_a_camera_is_told_for_people(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, stamp=lambda _, at: at * 0.4) as camera:
        result = command("probe", camera.url, "--seconds", 5)
    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "320 x 240" in rows["size"]
    assert "0.40 of real time" in rows["timestamps"]
    assert "wants no log-in" in rows["authentication"]
    assert "- timestamps: leave it as it is" in result.stdout
    assert "- authentication: set a password" in result.stdout


def test_a_refused_log_in_is_one_line_with_the_log_ins_that_are_offered(
    clips: Clips, command: Command
) -> None:
    with RtspCamera(clips.plain, credentials=Credentials(schemes=("Basic", "MD5"))) as camera:
        result = command("probe", camera.url.replace("secret", "wrong"))
        assert len(camera.failed_log_ins) <= 2
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "refuses" in result.stderr
    assert result.stderr.endswith("(it answers, and offers to log in by basic, digest-md5)\n")
    assert "wrong" not in result.stderr


def test_a_log_in_that_cannot_be_used_is_named(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, credentials=Credentials(schemes=("SHA-256",))) as camera:
        result = command("probe", camera.url)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "let the camera offer digest with MD5)" in result.stderr


def test_a_camera_that_is_lost_meanwhile_is_told_and_exit_1(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, closes_after=3.0) as camera:
        result = command("probe", camera.url, "--json", "--seconds", 20)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["pictures"] > 15
    assert found["lost"]
    assert found["advice"][0]["about"] == "lost"
    assert "the camera was lost: " in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_relay_that_starts_its_source_on_demand_is_waited_for(
    clips: Clips, command: Command
) -> None:
    with RtspCamera(clips.plain, start_up=8.0) as camera:
        result = command("probe", camera.url, "--json", "--seconds", 3)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert 8 < found["first_picture"]["picture"] < 20
    assert "start" in [each["about"] for each in found["advice"]]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_first_keyframe_that_is_far_away_is_waited_for(tmp_path: Path, command: Command) -> None:
    """A relay lets nothing out before the first keyframe, though it answered well."""
    clip = write_clip(tmp_path / "long.h264", frames=250, gop=250)
    with RtspCamera(clip, holds_until_key=True, starts_at_key=False) as camera:
        time.sleep(8)
        result = command("probe", camera.url, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert 12 < found["first_picture"]["picture"] < 28
    assert found["keyframes"]["count"] == 1
    assert {"keyframes", "start"} <= {each["about"] for each in found["advice"]}


MASK = "[[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]"
YARD = "[[0.6, 0.2], [0.9, 0.2], [0.9, 0.9], [0.6, 0.9]]"


def a_site(folder: Path, url: str) -> Path:
    site = folder / "site.yaml"
    dock = f"  dock: {{url: '{url}', still_side: 160, mask: {MASK}, zones: {{yard: {YARD}}}}}"
    site.write_text(f"cameras:\n{dock}\nquestions: {{fire: {{ask: 'Is there a fire?'}}}}\n")
    return site


def test_a_still_is_written_as_the_settings_say(
    clips: Clips, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "dock.jpg"
    with RtspCamera(clips.plain, credentials=Credentials(password=CANARY)) as camera:
        site = a_site(tmp_path, camera.url)
        words = ("--camera", "dock", "--still", out, "--seconds", 2, "--json")
        result = command("probe", "-c", site, *words)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["width"] == 320
    with Image.open(out) as image:
        assert (image.size, image.format) == ((160, 120), "JPEG")
        grey = np.asarray(image.convert("L"))
        red, green, _ = np.asarray(image.convert("RGB")).astype(int)[24, 100:140].T
    assert grey[:, :72].max() < 20
    assert grey[:, 90:].min() > 40
    assert (red - green).min() > 50
    assert CANARY not in result.stdout + result.stderr


def test_a_still_of_a_file_is_written(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "night.jpg"
    result = command("probe", write_clip(tmp_path / "night.mp4"), "--still", out)
    assert result.returncode == 0, result.stderr
    with Image.open(out) as image:
        assert image.size == (320, 240)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("probe", "name a url, a video file, or --config FILE --camera NAME"),
        ("probe x.mp4 -c {site}", "name a url"),
        ("probe x.mp4 --camera dock", "name a url"),
        ("probe -c {site} --camera gate", "no camera is called 'gate' (known: dock)"),
        ("probe x.mp4 --still {folder}", "--still: {folder} cannot be a file"),
        (
            "probe x.mp4 --still {folder}/none/x.jpg",
            "--still: {folder}/none/x.jpg cannot be",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(
    tmp_path: Path, command: Command, words: str, told: str
) -> None:
    names = {"folder": tmp_path, "site": a_site(tmp_path, "rtsp://127.0.0.1:1/x")}
    result = command(*words.format(**names).split())
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), (
        result.stderr
    )
    assert told.format(**names) in result.stderr


def test_a_mask_that_is_none_is_refused_with_its_line(tmp_path: Path, command: Command) -> None:
    site = a_site(tmp_path, "rtsp://127.0.0.1:1/x")
    for wrong, told in (
        ("[[[0, 0], [2, 0], [1, 1]]]", "is outside of the picture"),
        ("[[[0, 0], [1, 1]]]", "has 2 points"),
        ("[[[0, 0], [1, 0], [1, 1], [0, 1]]]", "hides the whole picture"),
    ):
        site.write_text(site.read_text().replace(MASK, wrong))
        result = command("validate", "-c", site)
        assert result.returncode == 2
        assert f"{site}:2: cameras.dock.mask" in result.stderr
        assert told in result.stderr
        site.write_text(site.read_text().replace(wrong, MASK))
