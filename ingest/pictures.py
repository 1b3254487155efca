"""Pictures as they are kept: scaled, and compressed."""

import io
from dataclasses import dataclass

from av.video.frame import VideoFrame
from PIL import Image

from ingest.camera import Camera


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """A compressed picture."""

    data: bytes
    width: int
    height: int


def compressed(picture: VideoFrame, camera: Camera) -> Jpeg:
    """Scale the picture so that its longest side is at most `still_side`, and compress it."""
    scale = min(1.0, camera.still_side / max(picture.width, picture.height))
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    scaled = picture.reformat(width, height, format="rgb24", interpolation="AREA")
    jpeg = io.BytesIO()
    Image.fromarray(scaled.to_ndarray()).save(jpeg, "JPEG", quality=camera.jpeg_quality)
    return Jpeg(data=jpeg.getvalue(), width=width, height=height)
