"""The demo's camera: clips that the package ships, served over RTSP with sender reports."""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from analyzer.nano import CLIPS_FOLDER, FIRE_CLIP, QUIET_CLIP
from deploy.runtime.process import Keepalive, ProcessRole

HOST = "127.0.0.1"
_KEEPALIVE_SECONDS = 10.0
_POLL_SECONDS = 0.5
_SESSION_SECONDS = 24 * 60 * 60


def camera_url(port: int, *, anomaly: bool = False) -> str:
    """Return the URL of the camera, which repeats the clip with or without the fire."""
    return f"rtsp://{HOST}:{port}/{FIRE_CLIP if anomaly else QUIET_CLIP}?play_count=0"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CameraServerRole(ProcessRole):
    """Serve the clips from a port of this machine."""

    port: int

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        """Serve until `stop`; each client starts at the beginning of its clip."""
        asyncio.run(_serve(self.port, stop, keepalive))


async def _serve(port: int, stop: threading.Event, keepalive: Callable[[float], None]) -> None:
    from aio_rtsp_toolkit.server import RtspServer

    folder = str(CLIPS_FOLDER)
    server = RtspServer(folder, host=HOST, port=port, session_timeout=_SESSION_SECONDS)
    # Its own logger prints to stdout, which belongs to the demo's JSON.
    server.logger = structlog.get_logger()
    serving = asyncio.create_task(server.serve_forever())
    while not stop.is_set():
        keepalive(_KEEPALIVE_SECONDS)
        await asyncio.wait([serving], timeout=_POLL_SECONDS)
        if serving.done():
            serving.result()
    # Python 3.11 logs every connection that is open at the end as an error.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    serving.cancel()
