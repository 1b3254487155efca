from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import BadAddress
from ingest.settings import CameraSettings
from kit.ingest.fixtures import CANARY

URL = "rtsp://viewer:secret@10.0.0.21:554/sub"


def settings(**given: Any) -> CameraSettings:
    return CameraSettings.model_validate({"url": URL, **given})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (URL, "10.0.0.21:554"),
        ("rtsps://cam-1.example/live?channel=1", "cam-1.example"),
        ("http://[fe80::1]:8080/video", "[fe80::1]:8080"),
        ("rtsp://viewer:p%40ss%2Fw@cam/sub", "cam"),
        ("rtsp://viewer:p@ss@cam/sub", "cam"),
        ("rtsp://cam", "cam"),
    ],
)
def test_the_place_of_a_camera_can_be_shown(url: str, place: str) -> None:
    assert address_of(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.21",
        "/etc/passwd",
        "file:///etc/passwd",
        "concat:a.ts|b.ts",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "RTSP://cam/sub",
        "rtmp://cam/sub",
        "rtsp://cam /sub",
        "rtsp://cam:port/sub",
        f"rtsp://viewer:{CANARY}@cam/sub",
        f"rtsp://viewer:{CANARY}@@cam",
    ],
)
def test_any_other_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadAddress, match=r"rtsp://user:password@host:554/path") as refused:
        address_of(url)
    assert "na/ry" not in str(refused.value)
    with pytest.raises(ValidationError) as invalid:
        settings(url=url)
    assert "na/ry" not in str(invalid.value)


@pytest.mark.parametrize("scheme", ["srt", "rtmp", "udp"])
def test_a_scheme_that_is_not_spoken_is_named(scheme: str) -> None:
    with pytest.raises(BadAddress, match=f"^{scheme} is not supported: use"):
        address_of(f"{scheme}://viewer:secret@camera/sub")


letters = st.characters(codec="ascii", categories=["L", "N", "P", "S"])


@given(st.text(letters, min_size=1))
def test_no_password_is_ever_shown(password: str) -> None:
    try:
        shown = address_of(f"rtsp://viewer:{password}@10.0.0.21:554/sub")
    except BadAddress:
        return
    assert shown == "10.0.0.21:554"


def test_what_holds_the_url_does_not_show_it() -> None:
    camera = Camera(name="dock", url=URL)
    assert "secret" not in f"{camera!r} {camera} {settings()!r} {settings()}"


def test_the_defaults_make_a_window_of_sixteen_stills() -> None:
    assert settings().stills_per_window == 16
    assert settings().window == timedelta(seconds=16)
    assert settings(fps=0.1, window="2m").stills_per_window == 12


@pytest.mark.parametrize(
    "given",
    [
        {"fps": 1, "window": "15s"},
        {"fps": 0.3, "window": "16s"},
        {"fps": 30, "window": "1m"},
        {"window": "0s"},
    ],
)
def test_a_window_must_hold_whole_groups_of_stills(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"make it 4, 8, 12, 16"):
        settings(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"fps": 0},
        {"fps": 31},
        {"transport": "quic"},
        {"still_side": 32},
        {"jpeg_quality": 100},
        {"decode": {"frames": "some"}},
        {"decode": {"hardware": "vaapi"}},
        {"decode": {"threads": 2}},
        {"colour": "blue"},
        {"window": "sixteen"},
    ],
)
def test_any_other_setting_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        settings(**given)
