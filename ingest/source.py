"""The open stream of a live camera, read frame by frame."""

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
from ingest.decoding import Decoder, Unsuitable
from ingest.errors import CameraLost, Loss
from ingest.frames import Frame, NoPicture, Sight
from ingest.hardware import accelerator
from ingest.host_clock import steady_time
from ingest.packet_loss import PacketLoss
from ingest.preflight import Peer
from ingest.reader import Ended, Reader
from ingest.reconnect import LONGEST_PATIENCE, History
from ingest.redirects import ONE_PICTURE, opened_way
from ingest.refusals import loss_of
from ingest.sights import Read, Sights
from ingest.waiting import FIRST_PICTURE, Wait

OPENING = 60.0
"""Seconds that the constructor takes at most."""
_ANSWERED = 45.0
_OPENED = 5.0
"""Seconds after which a stream that is not open yet is told as one without a picture."""
_TICK = 1.0
_FFMPEG_TIMEOUT = max(FIRST_PICTURE, LONGEST_PATIENCE) + 5.0
"""Longer than any wait of ours: it only ends what could not be ended in another way."""
_RTSP_PROTOCOLS = "rtsp,rtp,udp,tcp,tls"
_HTTP_PROTOCOLS = "http,https,tcp,tls"
_UNMEASURED = {"fpsprobesize": "0"}
"""FFmpeg would wait for some pictures to measure their rate, which is not used here."""
_LEAST_PROBE = "32"
"""Bytes: RTSP describes its streams, and a slow camera takes half a minute for what FFmpeg likes to
see before it opens one."""
_WAITED = 0.002
"""Seconds that a read takes at least where the data was not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """The camera took the connection, or there is nothing to wait for: FFmpeg connects now."""


_Step: TypeAlias = _Answered | Decoder | Read


class Source:
    """The open stream of a live camera; use it in a `with` block.

    Raises CameraLost, here and from `frames`, and ends soon once `stop` is set. `codec`, `width`
    and `height` are known once there is a picture.
    """

    def __init__(
        self,
        camera: Camera,
        stop: Event | None = None,
        history: History | None = None,
        steady: Callable[[], float] = steady_time,
    ) -> None:
        address_of(camera.url)  # refuse what would be read in another way than it was meant
        self._camera = camera
        self._stop = stop or Event()
        self._history = history or History(camera)
        self._steady = steady
        self._sights: Sights | None = None
        self.codec, self.width, self.height = "", 0, 0
        self._pictures = 0
        self._skips = False
        peers: set[Peer] = set()
        self._reader: Reader[_Step] = Reader(self._steps(peers), peers, self._stop)
        try:
            self._await_answer()
        except BaseException:
            self._reader.close()
            raise

    @property
    def rotation(self) -> int:
        """Return by how many degrees clockwise pictures are turned to be upright."""
        return 0 if self._sights is None else self._sights.decoder.rotation

    @property
    def pixel_aspect(self) -> float:
        """Return how many times as wide as high the pixels are."""
        return 1.0 if self._sights is None else self._sights.decoder.pixel_aspect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def frames(self) -> Iterator[Sight]:
        """Yield the pictures in the order in which they are shown, and why there is none."""
        is_told = -_TICK
        try:
            for read in self._reads():
                if read is not None and self._sights is not None:
                    yield from self._seen(self._sights, read)
                if not self._pictures and self._steady() - is_told >= _TICK:
                    is_told = self._steady()
                    yield NoPicture(arrived=is_told, reason=self._wait.reason)
        except Ended:
            raise self._ended() from None

    def skip(self) -> None:
        """Skip what has come already: decode on from the newest keyframe of it."""
        self._skips = True

    def _await_answer(self) -> None:
        """Return once the stream is open, or the camera answers and takes its time."""
        answered = self._reader.take(_ANSWERED)
        self._wait = Wait(self._camera, self._steady())
        if answered is None and not self._stop.is_set():
            where = address_of(self._camera.url)
            raise self._lost(f"{where} cannot be reached: check its name, DNS and the network")
        decoder = self._reader.take(_OPENED)
        if isinstance(decoder, Decoder):
            self._open(decoder)

    def _open(self, decoder: Decoder) -> None:
        decodes_all = self._camera.decode.frames == "all"
        self._sights = Sights(decoder, self._told_plainly, decodes_all=decodes_all)
        self.codec, self.width, self.height = decoder.codec, decoder.width, decoder.height

    def _reads(self) -> Iterator[Read | None]:
        """Yield what is read, and None each second without; where `skip` was called, skip."""
        kept: list[Read] = []
        silent = 0.0
        while not self._stop.is_set():
            step = self._reader.take(_TICK)
            if isinstance(step, Decoder):
                self._open(step)
            if not isinstance(step, Read):
                silent += _TICK  # not by the clock: this process may have been stopped meanwhile
                self._check_patience(silent)
                yield from kept
                kept.clear()
                yield None
                continue
            silent = 0.0
            if not self._skips:
                yield step
                continue
            if step.packet.is_keyframe:
                kept.clear()
            kept.append(step)
            if step.waited:
                self._skips = False
                yield from kept
                kept.clear()

    def _check_patience(self, silent: float) -> None:
        """Raise CameraLost where nothing came for too long."""
        if not self._pictures:
            self._wait.check(self._steady())
        elif silent > self._history.patience:
            where = address_of(self._camera.url)
            told = f"{where} fell silent for {silent:.0f} s: check the camera and the network"
            raise self._lost(told, Loss.SILENT)

    def _seen(self, sights: Sights, read: Read) -> Iterator[Sight]:
        came = sights.decoder.came
        found = sights.of(read)
        has_picture = any(not isinstance(sight, NoPicture) for sight in found)
        if not has_picture and sights.decoder.came == came:
            self._wait.came(read.at, is_key=read.packet.is_keyframe)
        for sight in found:
            if not isinstance(sight, NoPicture):
                self._pictures += 1
                self._wait = Wait(self._camera, read.at)
            if isinstance(sight, Frame) and not self.width:
                self.width, self.height = sight.picture.width, sight.picture.height
            yield sight

    def _ended(self) -> CameraLost:
        """Say why a stream that ended may have ended."""
        if self._camera.url.startswith("http") and self._pictures == 1:
            where = address_of(self._camera.url)
            return self._lost(ONE_PICTURE.format(where=where), Loss.SETTINGS)
        if not self._pictures:
            return self._lost("the stream ended before its first picture: check the camera")
        return self._lost("the stream ended: check that the camera is up")

    def _steps(self, peers: set[Peer]) -> Generator[_Step]:
        """Connect and read, on the reader's thread: each step may take its time."""

        def met(peer: Peer) -> None:
            if self._stop.is_set():
                raise self._lost("this process stops")
            peers.add(peer)

        with opened_way(self._camera, met) as url:
            yield _Answered()
            with self._told_plainly():
                container = _open(self._camera, url)
        with container:
            try:
                decoder = Decoder(container, self._steady)
            except Unsuitable as why:
                raise self._lost(str(why)) from None
            yield decoder
            yield from self._packets(container, decoder)

    def _packets(self, container: InputContainer, decoder: Decoder) -> Generator[Read]:
        packets = container.demux(decoder.stream)
        with PacketLoss() as loss:
            while True:
                began, sleeps = time.monotonic(), _sleeps()
                with self._told_plainly():
                    packet = self._next(packets)
                if packet is None:
                    return
                yield Read(
                    packet=packet,
                    at=self._steady(),
                    waited=time.monotonic() - began >= _WAITED and _sleeps() != sleeps,
                    follows_loss=loss.happened(),
                )

    def _next(self, packets: "Iterator[Packet[VideoStream]]") -> "Packet[VideoStream] | None":
        try:
            return next(packets, None)
        except IndexError:  # PyAV knows the tracks that were there when it opened the stream
            raise self._lost("a track began in the midst of its stream: it is read anew") from None

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise loss_of(error, self._camera, self._history) from None

    def _lost(self, reason: str, kind: Loss = Loss.GONE) -> CameraLost:
        return CameraLost(self._camera.name, reason, kind)


def _sleeps() -> int:
    """Return how often this thread gave the processor away; where unknown, a number of its own."""
    if hasattr(resource, "RUSAGE_THREAD"):
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    return time.monotonic_ns()


def _open(camera: Camera, url: str) -> InputContainer:
    options = {"protocol_whitelist": _HTTP_PROTOCOLS, "max_redirects": "0", **_UNMEASURED}
    if camera.url.startswith("rtsp"):
        options = {
            "protocol_whitelist": _RTSP_PROTOCOLS,
            "rtsp_transport": camera.transport,
            "probesize": _LEAST_PROBE,
            **_UNMEASURED,
        }
    return av.open(
        url,
        timeout=_FFMPEG_TIMEOUT,
        options=options,
        metadata_errors="replace",
        hwaccel=accelerator(camera.decode.hardware),
    )
