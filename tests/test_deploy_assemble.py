"""What the settings of a camera say reaches the camera that is watched."""

import json
from dataclasses import MISSING, fields
from itertools import islice
from pathlib import Path
from typing import Any

from deploy.config.assemble import build_camera
from deploy.config.settings_file import read_settings
from ingest.camera import Camera
from ingest.frames import CodedFrame
from ingest.live.source import CameraSource
from ingest.settings import DecodeSettings
from kit.ingest.fixtures import GStreamerServer

KEYS = {
    "url": "rtsp://10.0.0.21/sub",
    "fps": 2,
    "window": "4s",
    "transport": "udp",
    "still_side": 320,
    "jpeg_quality": 70,
    "redirects": ["cdn.example"],
    "mask": [[[0, 0], [0.2, 0], [0.2, 0.2]]],
    "decode": {"frames": "all", "hardware": "cuda"},
}


def camera_in(folder: Path, keys: dict[str, Any]) -> Camera:
    """Return the camera that a settings file describes."""
    file = folder / "longwatch.yaml"
    settings = {"cameras": {"dock": keys}, "questions": {"bag": {"ask": "Is there a bag?"}}}
    file.write_text(json.dumps(settings))  # JSON is YAML
    return build_camera("dock", read_settings(file).cameras["dock"])


def test_every_key_of_a_camera_reaches_it(tmp_path: Path) -> None:
    camera = camera_in(tmp_path, KEYS)
    assert camera.decode == DecodeSettings(frames="all", hardware="cuda")
    for each in fields(Camera):
        if each.name != "live" and each.default is not MISSING:  # files alone are not live
            assert getattr(camera, each.name) != each.default, each.name


def test_a_camera_whose_settings_ask_for_all_frames_is_decoded_as_a_whole(
    tmp_path: Path, rtsp: GStreamerServer
) -> None:
    camera = camera_in(tmp_path, {"url": rtsp.url, "decode": {"frames": "all"}})
    with CameraSource(camera) as source:
        sights = list(islice(source.frames(), 25))
    assert not any(isinstance(sight, CodedFrame) for sight in sights)
