"""Decode with the hardware of a card, where there is one."""

from functools import cache

import av
import structlog
from av.codec import Codec
from av.codec.hwaccel import HWAccel


@cache
def accelerator(hardware: str) -> HWAccel | None:
    """Return what decodes with `cuda`; None for `none`, and where there is no such card.

    A codec that the card does not decode is decoded by the processor all the same.
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
