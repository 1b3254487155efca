"""The demo's camera: a rendered scene, served over RTSP with sender reports."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from aio_rtsp_toolkit.server import RtspServer

from analyzer.nano.workshop.scenes import demo_scene
from analyzer.nano.workshop.video import write_video
from deploy.runtime.process import Keepalive, ProcessRole

HOST = "127.0.0.1"
VIDEO_FILE = "scene.mp4"
FPS, WIDTH, HEIGHT = 5, 384, 256
_RENDER_SECONDS = 120.0
_KEEPALIVE_SECONDS = 10.0
_POLL_SECONDS = 0.5
_SESSION_SECONDS = 24 * 60 * 60


def camera_url(port: int) -> str:
    """Return where the camera is; it shows its scene again and again."""
    return f"rtsp://{HOST}:{port}/{VIDEO_FILE}?play_count=0"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CameraServerRole(ProcessRole):
    """Serve a rendered scene from a port of this machine."""

    port: int
    seconds: float
    anomaly: bool

    def run(self, stop: threading.Event, keepalive: Keepalive) -> None:
        """Film the scene, then serve it from its beginning to each client until `stop` is set."""
        keepalive(_RENDER_SECONDS)
        with tempfile.TemporaryDirectory(prefix="longwatch-camera-") as folder:
            scene = demo_scene(self.seconds, self.anomaly)
            path = Path(folder) / VIDEO_FILE
            write_video(scene, path, seconds=self.seconds, fps=FPS, width=WIDTH, height=HEIGHT)
            asyncio.run(_serve(folder, self.port, stop, keepalive))


async def _serve(
    folder: str, port: int, stop: threading.Event, keepalive: Callable[[float], None]
) -> None:
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
