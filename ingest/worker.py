"""Watch one camera: connect, record what it sends, reconnect."""

import random
from collections.abc import Callable
from threading import Event

import structlog

from ingest.camera import Camera
from ingest.errors import CameraLost
from ingest.frames import CameraStream, NoPicture
from ingest.live.reconnect import ConnectionHistory
from ingest.live.source import OPEN_TIMEOUT, CameraSource
from ingest.recording.recorder import Recorder
from ingest.timing.host_clock import HostClock
from ingest.timing.process_pauses import TICK_SECONDS, Ticker
from storage.log.log import Log

_KEEPALIVE_MARGIN = 5.0
"""Seconds to process a picture, beyond the wait for it."""


class CameraWorker:
    """Watch one camera and append its windows to the log.

    `keepalive(seconds)` promises that the next call comes within these seconds. `open_stream` opens
    a stream other than a live camera's.
    """

    def __init__(
        self,
        camera: Camera,
        log: Log,
        keepalive: Callable[[float], None],
        host: HostClock | None = None,
        open_stream: Callable[[Camera], CameraStream] | None = None,
    ) -> None:
        self._camera = camera
        self._keepalive = keepalive
        self._open_stream = open_stream
        self._history = ConnectionHistory(camera)
        self._host = host or HostClock()
        self.recorder = Recorder(camera, log, self._host)
        self._logger = structlog.get_logger().bind(camera=camera.name)

    def run(self, stop: Event) -> None:
        """Watch the camera until `stop` is set; reconnect when it is lost."""
        with Ticker(self.recorder.tick):
            self.watch(stop)

    def watch(self, stop: Event) -> None:
        """Watch the camera as `run` does; the caller calls the recorder's `tick`."""
        if self._camera.url.startswith(("rtsps://", "https://")):
            self._logger.info("the camera's certificate is not checked: trust the network to it")
        while not stop.is_set():
            try:
                self._watch_once(stop)
            except CameraLost as lost:
                self._wait_after(lost, stop)
        self.recorder.close()

    def _watch_once(self, stop: Event) -> None:
        """Connect and watch until the camera is lost (CameraLost) or `stop` is set."""
        self._keepalive(OPEN_TIMEOUT + _KEEPALIVE_MARGIN)
        with self._open(stop) as stream:
            self.recorder.start_connection()
            self._history.start_connection()
            for item in stream.frames():
                if stop.is_set():
                    return
                self._keepalive(self._history.stall_timeout + _KEEPALIVE_MARGIN)
                if not isinstance(item, NoPicture) and self._history.record_picture(item.arrived):
                    size = f"{stream.width}x{stream.height}"
                    self._logger.info("camera connected", codec=stream.codec, size=size)
                is_behind = self.recorder.record(item)
                del item  # the next one is decoded into the memory of its picture
                if is_behind:
                    stream.skip()

    def _open(self, stop: Event) -> CameraStream:
        if self._open_stream is not None:
            return self._open_stream(self._camera)
        return CameraSource(self._camera, stop, self._history)

    def _wait_after(self, lost: CameraLost, stop: Event) -> None:
        """Log and record the loss, and wait until the next try."""
        delay = self._history.record_loss(lost.kind, random.random())
        self._logger.warning(
            "camera lost",
            reason=lost.reason,
            attempt=self._history.failures,
            retry_in=round(delay, 1),
        )
        self.recorder.record_loss(lost.reason)
        self._keepalive(delay + _KEEPALIVE_MARGIN)
        until = self._host.steady() + delay
        while (left := until - self._host.steady()) > 0 and not stop.wait(min(left, TICK_SECONDS)):
            self.recorder.raise_failure()
