"""Read the stream of a live camera frame by frame."""

import resource
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Self, TypeAlias

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ingest.address import address_of
from ingest.camera import Camera
from ingest.decoding.decoder import UnsuitableVideo, VideoDecoder
from ingest.decoding.hardware import accelerator
from ingest.decoding.stream_decoder import ReceivedPacket, StreamDecoder
from ingest.errors import CameraLost, LossKind
from ingest.frames import Frame, NoPicture, StreamItem
from ingest.live.ffmpeg_errors import camera_lost_from
from ingest.live.first_picture import FIRST_PICTURE_TIMEOUT, FirstPictureWait
from ingest.live.packet_loss import PacketLossMonitor
from ingest.live.reader import StreamEnded, ThreadedReader
from ingest.live.reconnect import MAX_STALL_TIMEOUT, ConnectionHistory
from ingest.rtsp.preflight import Peer
from ingest.rtsp.redirects import SINGLE_PICTURE_REASON, resolve_redirects
from ingest.timing.host_clock import steady_time

OPEN_TIMEOUT = 60.0
"""Seconds that the constructor takes at most."""
_CONNECT_SECONDS = 45.0
_OPEN_SECONDS = 5.0
"""Seconds after which an unopened stream is reported as one without a picture."""
_READ_SECONDS = 1.0
_FFMPEG_TIMEOUT = max(FIRST_PICTURE_TIMEOUT, MAX_STALL_TIMEOUT) + 5.0
"""Longer than any wait of ours: only the last resort."""
_RTSP_PROTOCOLS = "rtsp,rtp,udp,tcp,tls"
_HTTP_PROTOCOLS = "http,https,tcp,tls"
_NO_RATE_PROBE = {"fpsprobesize": "0"}
"""FFmpeg would wait for pictures to measure their rate, which is not used here."""
_MIN_PROBE_BYTES = "32"
"""RTSP describes its streams, and a slow camera takes half a minute to send what FFmpeg probes by
default."""
_BLOCKED_SECONDS = 0.002
"""A read that waited for data takes at least this long, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadyToOpen:
    """The camera has answered, or cannot be asked: FFmpeg connects next."""


_SourceStep: TypeAlias = _ReadyToOpen | VideoDecoder | ReceivedPacket


class CameraSource:
    """The open stream of a live camera; use it in a `with` block.

    Raises CameraLost, here and from `frames`, and ends soon after `stop` is set. `codec`, `width`
    and `height` are known with the first picture.
    """

    def __init__(
        self,
        camera: Camera,
        stop: Event | None = None,
        history: ConnectionHistory | None = None,
        steady: Callable[[], float] = steady_time,
    ) -> None:
        address_of(camera.url)  # refuse an ambiguous url
        self._camera = camera
        self._stop = stop or Event()
        self._history = history or ConnectionHistory(camera)
        self._steady = steady
        self._decoder: StreamDecoder | None = None
        self.codec, self.width, self.height = "", 0, 0
        self._picture_count = 0
        self._is_skipping = False
        peers: set[Peer] = set()
        self._reader = ThreadedReader(self._connect_and_read(peers), peers, self._stop)
        try:
            self._await_response()
        except BaseException:
            self._reader.close()
            raise

    @property
    def rotation(self) -> int:
        """Return the clockwise turn that makes pictures upright, in degrees."""
        return 0 if self._decoder is None else self._decoder.decoder.rotation

    @property
    def pixel_aspect(self) -> float:
        """Return the width of a pixel divided by its height."""
        return 1.0 if self._decoder is None else self._decoder.decoder.pixel_aspect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def frames(self) -> Iterator[StreamItem]:
        """Yield the pictures in display order, and the reasons for missing ones."""
        reported_at = -_READ_SECONDS
        try:
            for received in self._received_packets():
                if received is not None and self._decoder is not None:
                    yield from self._decode(self._decoder, received)
                if not self._picture_count and self._steady() - reported_at >= _READ_SECONDS:
                    reported_at = self._steady()
                    yield NoPicture(arrived=reported_at, reason=self._wait.reason)
        except StreamEnded:
            raise self._ended_error() from None

    def skip(self) -> None:
        """Skip what has arrived already, up to its newest keyframe."""
        self._is_skipping = True

    def _await_response(self) -> None:
        """Return when the stream is open, or when the camera has answered but is slow."""
        step = self._reader.take(_CONNECT_SECONDS)
        self._wait = FirstPictureWait(self._camera, self._steady())
        if step is None and not self._stop.is_set():
            reason = "cannot be reached: check its name, DNS and the network"
            raise self._lost_error(f"{address_of(self._camera.url)} {reason}")
        decoder = self._reader.take(_OPEN_SECONDS)
        if isinstance(decoder, VideoDecoder):
            self._start_decoding(decoder)

    def _start_decoding(self, decoder: VideoDecoder) -> None:
        decodes_all = self._camera.decode.frames == "all"
        self._decoder = StreamDecoder(decoder, self._translate_errors, decodes_all=decodes_all)
        self.codec, self.width, self.height = decoder.codec, decoder.width, decoder.height

    def _received_packets(self) -> Iterator[ReceivedPacket | None]:
        """Yield the packets, and None each second without; after `skip` only the newest."""
        buffered: list[ReceivedPacket] = []
        silent_seconds = 0.0
        while not self._stop.is_set():
            step = self._reader.take(_READ_SECONDS)
            if isinstance(step, VideoDecoder):
                self._start_decoding(step)
            if not isinstance(step, ReceivedPacket):
                silent_seconds += _READ_SECONDS  # by no clock: the process may have been stopped
                self._check_stall(silent_seconds)
                yield from buffered
                buffered.clear()
                yield None
                continue
            silent_seconds = 0.0
            if not self._is_skipping:
                yield step
                continue
            if step.packet.is_keyframe:
                buffered.clear()
            buffered.append(step)
            if step.waited:
                self._is_skipping = False
                yield from buffered
                buffered.clear()

    def _check_stall(self, silent_seconds: float) -> None:
        """Raise CameraLost if nothing came for too long."""
        if not self._picture_count:
            self._wait.check(self._steady())
        elif silent_seconds > self._history.stall_timeout:
            reason = f"fell silent for {silent_seconds:.0f} s: check the camera and the network"
            raise self._lost_error(f"{address_of(self._camera.url)} {reason}", LossKind.SILENT)

    def _decode(self, decoder: StreamDecoder, received: ReceivedPacket) -> Iterator[StreamItem]:
        count_before = decoder.decoder.picture_count
        items = decoder.decode(received)
        has_picture = any(not isinstance(item, NoPicture) for item in items)
        if not has_picture and decoder.decoder.picture_count == count_before:
            self._wait.record_packet(received.received_at, is_keyframe=received.packet.is_keyframe)
        for item in items:
            if not isinstance(item, NoPicture):
                self._picture_count += 1
                self._wait = FirstPictureWait(self._camera, received.received_at)
            if isinstance(item, Frame) and not self.width:
                self.width, self.height = item.picture.width, item.picture.height
            yield item

    def _ended_error(self) -> CameraLost:
        """Return the loss for a stream that ended."""
        if self._camera.url.startswith("http") and self._picture_count == 1:
            reason = f"{address_of(self._camera.url)} {SINGLE_PICTURE_REASON}"
            return self._lost_error(reason, LossKind.SETTINGS)
        if not self._picture_count:
            return self._lost_error("the stream ended before its first picture: check the camera")
        return self._lost_error("the stream ended: check that the camera is up")

    def _connect_and_read(self, peers: set[Peer]) -> Generator[_SourceStep]:
        """Connect and read on the reader's thread; each step may be slow."""

        def on_connect(peer: Peer) -> None:
            if self._stop.is_set():
                raise self._lost_error("this process stops")
            peers.add(peer)

        with resolve_redirects(self._camera, on_connect) as url:
            yield _ReadyToOpen()
            with self._translate_errors():
                container = _open_container(self._camera, url)
        with container:
            try:
                decoder = VideoDecoder(container, self._steady)
            except UnsuitableVideo as error:
                raise self._lost_error(str(error)) from None
            yield decoder
            yield from self._read_packets(container, decoder)

    def _read_packets(
        self, container: InputContainer, decoder: VideoDecoder
    ) -> Generator[ReceivedPacket]:
        packets = container.demux(decoder.stream)
        with PacketLossMonitor() as loss:
            while True:
                started_at, switches = time.monotonic(), _context_switches()
                with self._translate_errors():
                    packet = self._next_packet(packets)
                if packet is None:
                    return
                yield ReceivedPacket(
                    packet=packet,
                    received_at=self._steady(),
                    waited=time.monotonic() - started_at >= _BLOCKED_SECONDS
                    and _context_switches() != switches,
                    follows_loss=loss.take_loss(),
                )

    def _next_packet(
        self, packets: "Iterator[Packet[VideoStream]]"
    ) -> "Packet[VideoStream] | None":
        try:
            return next(packets, None)
        except IndexError:  # PyAV knows the tracks that were there when it opened the stream
            reason = "a new track started within the stream: reconnecting"
            raise self._lost_error(reason) from None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise camera_lost_from(error, self._camera, self._history) from None

    def _lost_error(self, reason: str, kind: LossKind = LossKind.GONE) -> CameraLost:
        return CameraLost(self._camera.name, reason, kind)


def _context_switches() -> int:
    """Return how often this thread has waited; on macOS a new number each time."""
    if hasattr(resource, "RUSAGE_THREAD"):
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    return time.monotonic_ns()


def _open_container(camera: Camera, url: str) -> InputContainer:
    options = {"protocol_whitelist": _HTTP_PROTOCOLS, "max_redirects": "0", **_NO_RATE_PROBE}
    if camera.url.startswith("rtsp"):
        options = {
            "protocol_whitelist": _RTSP_PROTOCOLS,
            "rtsp_transport": camera.transport,
            "probesize": _MIN_PROBE_BYTES,
            **_NO_RATE_PROBE,
        }
    return av.open(
        url,
        timeout=_FFMPEG_TIMEOUT,
        options=options,
        metadata_errors="replace",
        hwaccel=accelerator(camera.decode.hardware),
    )
