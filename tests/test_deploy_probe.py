"""`longwatch probe`, as a person and a script see it."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from deploy_fixtures import Command
from ingest_fixtures import CANARY, Clips, write_clip
from PIL import Image
from rtsp_camera import Credentials, RtspCamera


def test_a_file_is_told(tmp_path: Path, command: Command) -> None:
    video = write_clip(tmp_path / "night.mp4")
    found = json.loads(command("probe", video, "--json").stdout)
    assert (found["codec"], found["width"], found["height"]) == ("h264", 320, 240)
    assert found["keyframe_interval"] == pytest.approx(1.0)
    assert (found["scheme"], found["authentication"], found["advice"]) == ("file", None, [])
    said = command("probe", video)
    assert "320 x 240" in said.stdout
    assert said.stderr == ""


def test_a_camera_is_told_for_scripts(clips: Clips, command: Command) -> None:
    credentials = Credentials(password=CANARY, offers=("MD5",))
    with RtspCamera(
        clips.plain, credentials=credentials, clock=lambda at: at + 90, start_up=0.5
    ) as camera:
        said = command("probe", camera.url, "--json", "--seconds", 4)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["fps"] == pytest.approx(10.0, abs=0.5)
    assert found["keyframe_interval"] == pytest.approx(1.0, abs=0.1)
    assert found["timestamps"]["rate"] == pytest.approx(1.0, abs=0.05)
    assert found["clock"]["source"] == "received"
    assert found["clock"]["offset"] == pytest.approx(90, abs=0.5)
    assert found["clock"]["is_steady"] is True
    assert found["authentication"]["offered"] == ["digest-md5"]
    assert 0.5 < found["first_picture"]["picture"] < 6
    assert [each["about"] for each in found["advice"]] == ["clock"]
    assert said.stderr.splitlines()[0].startswith("connected after ")
    assert CANARY not in said.stdout + said.stderr


def test_a_camera_is_told_for_people(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, stamp=lambda _, at: at * 0.4) as camera:
        said = command("probe", camera.url, "--seconds", 5)
    assert said.returncode == 0, said.stderr
    rows = {line.split()[0]: line for line in said.stdout.splitlines()}
    assert "320 x 240" in rows["size"]
    assert "0.40 of real time" in rows["timestamps"]
    assert "wants no log-in" in rows["authentication"]
    assert "- timestamps: leave it as it is" in said.stdout
    assert "- authentication: set a password" in said.stdout


def test_a_refused_log_in_is_one_line_with_the_log_ins_that_are_offered(
    clips: Clips, command: Command
) -> None:
    with RtspCamera(clips.plain, credentials=Credentials(offers=("Basic", "MD5"))) as camera:
        said = command("probe", camera.url.replace("secret", "wrong"))
        assert len(camera.log_ins) <= 2
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.count("\n") == 1
    assert "refuses" in said.stderr
    assert said.stderr.endswith("(it answers, and offers to log in by basic, digest-md5)\n")
    assert "wrong" not in said.stderr


def test_a_log_in_that_cannot_be_used_is_named(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, credentials=Credentials(offers=("SHA-256",))) as camera:
        said = command("probe", camera.url)
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert "let the camera offer digest with MD5)" in said.stderr


def test_a_camera_that_is_lost_meanwhile_is_told_and_exit_1(clips: Clips, command: Command) -> None:
    with RtspCamera(clips.plain, closes_after=3.0) as camera:
        said = command("probe", camera.url, "--json", "--seconds", 20)
    assert said.returncode == 1
    found = json.loads(said.stdout)
    assert found["pictures"] > 15
    assert found["lost"]
    assert found["advice"][0]["about"] == "lost"
    assert "was lost while it was looked at" in said.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_relay_that_starts_its_source_on_demand_is_waited_for(
    clips: Clips, command: Command
) -> None:
    with RtspCamera(clips.plain, start_up=8.0) as camera:
        said = command("probe", camera.url, "--json", "--seconds", 3)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert 8 < found["first_picture"]["picture"] < 20
    assert "start" in [each["about"] for each in found["advice"]]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_first_keyframe_that_is_far_away_is_waited_for(tmp_path: Path, command: Command) -> None:
    """A relay lets nothing out before the first keyframe, though it answered well."""
    clip = write_clip(tmp_path / "long.h264", frames=250, gop=250)
    with RtspCamera(clip, holds_until_key=True, starts_at_key=False) as camera:
        time.sleep(8)
        said = command("probe", camera.url, "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
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
        said = command("probe", "-c", site, *words)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["width"] == 320
    with Image.open(out) as image:
        assert (image.size, image.format) == ((160, 120), "JPEG")
        grey = np.asarray(image.convert("L"))
        red, green, _ = np.asarray(image.convert("RGB")).astype(int)[24, 100:140].T
    assert grey[:, :72].max() < 20
    assert grey[:, 90:].min() > 40
    assert (red - green).min() > 50
    assert CANARY not in said.stdout + said.stderr


def test_a_still_of_a_file_is_written(tmp_path: Path, command: Command) -> None:
    out = tmp_path / "night.jpg"
    said = command("probe", write_clip(tmp_path / "night.mp4"), "--still", out)
    assert said.returncode == 0, said.stderr
    with Image.open(out) as image:
        assert image.size == (320, 240)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("probe", "say what to look at: a url, a video file, or --config FILE --camera NAME"),
        ("probe x.mp4 -c {site}", "say what to look at"),
        ("probe x.mp4 --camera dock", "say what to look at"),
        ("probe -c {site} --camera gate", "no camera is called 'gate': choose one of dock"),
        ("probe x.mp4 --still {folder}", "--still: {folder} is no place for a file"),
        ("probe x.mp4 --still {folder}/none/x.jpg", "--still: {folder}/none/x.jpg is no place"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(
    tmp_path: Path, command: Command, words: str, told: str
) -> None:
    names = {"folder": tmp_path, "site": a_site(tmp_path, "rtsp://127.0.0.1:1/x")}
    said = command(*words.format(**names).split())
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1), said.stderr
    assert told.format(**names) in said.stderr


def test_a_mask_that_is_none_is_refused_with_its_line(tmp_path: Path, command: Command) -> None:
    site = a_site(tmp_path, "rtsp://127.0.0.1:1/x")
    for wrong, told in (
        ("[[[0, 0], [2, 0], [1, 1]]]", "is outside of the picture"),
        ("[[[0, 0], [1, 1]]]", "has 2 points"),
        ("[[[0, 0], [1, 0], [1, 1], [0, 1]]]", "hides the whole picture"),
    ):
        site.write_text(site.read_text().replace(MASK, wrong))
        said = command("validate", "-c", site)
        assert said.returncode == 2
        assert f"{site}:2: cameras.dock.mask" in said.stderr
        assert told in said.stderr
        site.write_text(site.read_text().replace(wrong, MASK))
