"""Film a scene: the H.264 file that the demo's camera plays."""

from fractions import Fraction
from pathlib import Path

import av

from analyzer.nano.workshop.scenes import RenderedScene

_TUNING = {"preset": "ultrafast", "tune": "zerolatency", "crf": "24"}


def write_video(
    scene: RenderedScene, path: Path, *, seconds: float, fps: int, width: int, height: int
) -> None:
    """Write the first `seconds` of a scene to an MP4, with a keyframe each second."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=fps, options=_TUNING)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        track.gop_size = fps
        for n in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(scene.picture(n / fps, width, height), "rgb24")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
