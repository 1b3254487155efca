"""Encode a scene as an H.264 file."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av

from analyzer.nano.workshop.scenes import RenderedScene

QUICK = {"preset": "ultrafast", "tune": "zerolatency", "crf": "24"}
SMALL = {"preset": "slow", "tune": "zerolatency", "crf": "29"}
"""Encoder options: of a file that is soon deleted, and of one that the package ships."""


def write_video(
    scene: RenderedScene,
    path: Path,
    *,
    seconds: float,
    fps: int,
    width: int,
    height: int,
    options: Mapping[str, str] = QUICK,
) -> None:
    """Write the first `seconds` of a scene to a file, with a keyframe each second."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=fps, options=dict(options))
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        track.gop_size = fps
        for n in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(scene.picture(n / fps, width, height), "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
