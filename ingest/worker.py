"""Watch one camera for ever: connect, record what it sends, reconnect."""

import random
from collections.abc import Callable
from threading import Event

import structlog

from ingest import redirects
from ingest.attendance import Ticker
from ingest.camera import Camera
from ingest.errors import CameraLost
from ingest.frames import Stream
from ingest.host_clock import HostClock
from ingest.recorder import Recorder
from ingest.source import Source
from storage.backoff import backoff
from storage.log import Log


class CameraWorker:
    """Watch one camera and append its windows to the log.

    `promise(seconds)` is called to say that it will be called again within so many seconds.
    """

    def __init__(
        self,
        camera: Camera,
        log: Log,
        promise: Callable[[float], None],
        host: HostClock | None = None,
        open_stream: Callable[[Camera], Stream] = Source,
    ) -> None:
        self._camera = camera
        self._promise = promise
        self._open_stream = open_stream
        self.recorder = Recorder(camera, log, host or HostClock())
        self._failures = 0
        self._logger = structlog.get_logger().bind(camera=camera.name)

    def run(self, stop: Event) -> None:
        """Watch the camera until `stop` is set, and come back to it whenever it is lost."""
        with Ticker(self.recorder.tick):
            self.watch(stop)

    def watch(self, stop: Event) -> None:
        """Watch the camera as `run` does, while somebody else calls the recorder's `tick`."""
        while not stop.is_set():
            try:
                self._watch_once(stop)
            except CameraLost as lost:
                self._failures += 1
                delay = backoff(self._failures, random.random())
                self._logger.warning(
                    "camera lost",
                    reason=lost.reason,
                    attempt=self._failures,
                    retry_in=round(delay, 1),
                )
                self.recorder.lost(lost.reason)
                self._promise(delay + self._camera.patience)
                stop.wait(delay)
        self.recorder.close()

    def _watch_once(self, stop: Event) -> None:
        """Connect and watch until the camera is lost (CameraLost) or `stop` is set."""
        self._promise(redirects.SECONDS + self._camera.patience)
        with self._open_stream(self._camera) as stream:
            self._logger.info(
                "camera connected", codec=stream.codec, size=f"{stream.width}x{stream.height}"
            )
            self.recorder.connected()
            for sight in stream.frames():
                if stop.is_set():
                    return
                self._promise(self._camera.patience)
                self._failures = 0
                if self.recorder.see(sight):
                    stream.skip()
