"""The demo's camera: a rendered scene, served over RTSP with sender reports."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from aio_rtsp_toolkit.server import RtspServer

from analyzer.nano.film import film
from analyzer.nano.scenes import demo_scene

HOST = "127.0.0.1"
FILM = "scene.mp4"
FPS, WIDTH, HEIGHT = 5, 384, 256
_FILMING = 120.0
_ALIVE = 10.0
_TICK = 0.5
_DAY = 24 * 60 * 60


def url_of(port: int) -> str:
    """Return where the camera is; it shows its scene again and again."""
    return f"rtsp://{HOST}:{port}/{FILM}?play_count=0"


def serve(
    *,
    port: int,
    seconds: float,
    anomaly: bool,
    stop: threading.Event,
    promise: Callable[[float], None],
) -> None:
    """Film a scene, then serve it until `stop`; it begins anew for each who connects."""
    promise(_FILMING)
    with tempfile.TemporaryDirectory(prefix="longwatch-camera-") as folder:
        scene = demo_scene(seconds, anomaly)
        path = Path(folder) / FILM
        film(scene, path, seconds=seconds, fps=FPS, width=WIDTH, height=HEIGHT)
        asyncio.run(_serve(folder, port, stop, promise))


async def _serve(
    folder: str, port: int, stop: threading.Event, promise: Callable[[float], None]
) -> None:
    server = RtspServer(folder, host=HOST, port=port, session_timeout=_DAY)
    # Its own logger prints to stdout, which belongs to the demo's JSON.
    server.logger = structlog.get_logger()
    serving = asyncio.create_task(server.serve_forever())
    while not stop.is_set():
        promise(_ALIVE)
        await asyncio.wait([serving], timeout=_TICK)
        if serving.done():
            serving.result()
    # Python 3.11 logs every connection that is open at the end as an error.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    serving.cancel()
