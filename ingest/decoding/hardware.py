"""Decode video on a GPU, if there is one."""

from functools import cache

import av
import structlog
from av.codec import Codec
from av.codec.hwaccel import HWAccel


@cache
def accelerator(hardware: str) -> HWAccel | None:
    """Return the accelerator for `cuda`; None for `none`, or if no GPU decodes video.

    The CPU decodes the codecs that the GPU does not.
    """
    if hardware == "none":
        return None
    hwaccel = HWAccel(hardware, allow_software_fallback=True)
    try:
        hwaccel.create(Codec("h264", "r"))
    except (OSError, ValueError, NotImplementedError, RuntimeError, av.FFmpegError) as error:
        structlog.get_logger().warning(
            "no card decodes video here: it is decoded by the processor; check the driver, "
            "or set `decode: {hardware: none}`",
            hardware=hardware,
            error=type(error).__name__,
        )
        return None
    return hwaccel
