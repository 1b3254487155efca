"""`longwatch probe`, as a person and a script see it."""

import json
import time
from pathlib import Path

import pytest
from deploy_fixtures import Command
from ingest_fixtures import CANARY, Clips, write_clip
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
