"""An open video stream: a live camera or a file, read frame by frame.

The text and the `filename` of PyAV's errors hold the url with its password; none leaves
this module.
"""

import errno
import io
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from ingest.address import address_of
from ingest.errors import BadVideo, CameraLost
from ingest.redirects import url_to_open
from storage.records import Still

_UNDECODABLE_AFTER = 8.0
_OPEN_TIMEOUT = 5
_READ_TIMEOUT = 3
_MAX_PIXELS = 4096 * 4096
_RTSP_PROTOCOLS = "rtsp,rtp,udp,tcp,tls"
_HTTP_PROTOCOLS = "http,https,tcp,tls"
_UNTIMED_FORMATS = ("mjpeg", "mpjpeg")  # FFmpeg counts their frames at 25 a second
_MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera and how its windows are cut; not `live` means that `url` is a path."""

    name: str
    url: str = field(repr=False)
    fps: float = 1.0
    stills_per_window: int = 16
    transport: str = "tcp"
    still_side: int = 640
    jpeg_quality: int = 85
    live: bool = True
    redirects: tuple[str, ...] = ()
    """Hosts beside its own that it may redirect to; with the password, over RTSP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A decoded frame; the times are seconds, both clocks since the epoch.

    `pts` is its own timestamp on the time of the stream, `camera_time` what the camera's wall
    clock said, known once the camera has sent an RTCP sender report (RFC 3550, 6.4.1).
    """

    picture: VideoFrame
    pts: float | None
    received: float
    camera_time: float | None


class ReceiveClock:
    """Our clock, in seconds since the epoch: it follows a clock set ahead, and never goes back.

    A machine may connect before it has learnt the time; a clock set back must not make us
    tell the same time twice.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead = wall() - steady()

    def now(self) -> float:
        """Return the time."""
        steady = self._steady()
        self._ahead = max(self._ahead, self._wall() - steady)
        return self._ahead + steady


class Source:
    """An open video stream; use it in a `with` block.

    Raises CameraLost for a live camera and BadVideo for a file, here and from `frames`.
    """

    def __init__(self, camera: Camera, clock: ReceiveClock | None = None) -> None:
        self._camera = camera
        self._clock = clock or ReceiveClock()
        with self._told_plainly():
            self._container = _open(camera)
        self._stream = self._video_stream()
        self._untimed = self._container.format.name in _UNTIMED_FORMATS
        self.codec = self._stream.codec_context.name
        self.period = float(1 / (self._stream.guessed_rate or 25))
        self.width, self.height = self._stream.width, self._stream.height
        self.damaged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Yield the frames in the order in which they are shown; damaged ones are left out."""
        decoded = False
        camera_zero: float | None = None
        decoded_at = time.monotonic()
        for packet in self._packets():
            camera_zero = _camera_zero(packet, camera_zero)
            pictures = self._decode(packet)
            for picture in pictures:
                yield self._frame(picture, camera_zero)
            if pictures:
                decoded, decoded_at = True, time.monotonic()
            elif self._camera.live and time.monotonic() - decoded_at > _UNDECODABLE_AFTER:
                raise self._lost("it sends data that cannot be decoded: check its video settings")
        if self._camera.live:
            raise self._lost("the stream ended: check that the camera is up")
        if not decoded:
            raise self._lost("no frame of it can be decoded: check that the file is whole")

    def seconds(self) -> float:
        """Return how long the video is; without a stated duration this reads all of it."""
        if self._container.duration is not None:
            return self._container.duration / av.time_base
        return self.period * sum(1 for packet in self._packets() if packet.size)

    def _video_stream(self) -> VideoStream:
        if not self._container.streams.video:
            self._container.close()
            raise self._lost("there is no video track, only sound or data: choose another stream")
        stream = self._container.streams.video[0]
        if stream.width * stream.height > _MAX_PIXELS:
            self._container.close()
            raise self._lost(
                "its pictures have more pixels than can be taken: choose another stream"
            )
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        stream.codec_context.thread_count = 1
        return stream

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        with self._told_plainly():
            yield from self._container.demux(self._stream)

    def _decode(self, packet: "Packet[VideoStream]") -> list[VideoFrame]:
        with self._told_plainly():
            try:
                return [picture for picture in packet.decode() if not picture.is_corrupt]
            except av.error.InvalidDataError:
                self.damaged += 1
                return []

    def _frame(self, picture: VideoFrame, camera_zero: float | None) -> Frame:
        pts = None
        if picture.pts is not None and picture.time_base is not None and not self._untimed:
            pts = float(picture.pts * picture.time_base)
        claimed = None if pts is None or camera_zero is None else camera_zero + pts
        return Frame(picture=picture, pts=pts, received=self._clock.now(), camera_time=claimed)

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise self._lost(_reason(error, self._camera)) from None

    def _lost(self, reason: str) -> CameraLost | BadVideo:
        kind = CameraLost if self._camera.live else BadVideo
        return kind(self._camera.name if self._camera.live else self._camera.url, reason)


def still_of(picture: VideoFrame, at: float, camera: Camera) -> Still:
    """Scale the picture so that its longest side is at most `still_side`, and compress it."""
    scale = min(1.0, camera.still_side / max(picture.width, picture.height))
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    scaled = picture.reformat(width, height, format="rgb24", interpolation="AREA")
    jpeg = io.BytesIO()
    Image.fromarray(scaled.to_ndarray()).save(jpeg, "JPEG", quality=camera.jpeg_quality)
    seen = datetime.fromtimestamp(round(at, 3), UTC)
    return Still(at=seen, jpeg=jpeg.getvalue(), width=width, height=height)


def _open(camera: Camera) -> InputContainer:
    if not camera.live:
        return av.open(f"file:{camera.url}", options={"protocol_whitelist": "file"})
    address_of(camera.url)  # refuse what would be read in another way than it was meant
    url = url_to_open(camera)
    options = {"protocol_whitelist": _HTTP_PROTOCOLS, "max_redirects": "0"}
    if camera.url.startswith("rtsp"):
        options = {
            "protocol_whitelist": _RTSP_PROTOCOLS,
            "rtsp_transport": camera.transport,
            "analyzeduration": "500000",
            "probesize": "500000",
        }
    return av.open(url, timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT), options=options)


def _camera_zero(packet: "Packet[VideoStream]", known: float | None) -> float | None:
    """Return the camera's wall clock at timestamp 0, from the packet's sender report if any.

    FFmpeg tells it as AVProducerReferenceTime: int64 microseconds, then int flags.
    """
    if packet.pts is None or not packet.has_sidedata("prft"):
        return known
    microseconds, _ = struct.unpack_from("<qi", bytes(packet.get_sidedata("prft")))
    return float(microseconds * _MICROSECOND - packet.pts * packet.time_base)


_REASONS: tuple[tuple[type[av.FFmpegError], str], ...] = (
    (
        av.error.HTTPUnauthorizedError,
        "{where} refuses the user or the password: check both in the url",
    ),
    (av.error.HTTPForbiddenError, "{where} does not show this stream to this user: ask its owner"),
    (av.error.HTTPNotFoundError, "{where} has no such stream: check the path in the url"),
    (
        av.error.ConnectionRefusedError,
        "nothing answers at {where}: check the port, and that the camera is up",
    ),
    (av.error.ExitError, "{where} fell silent: check the camera and the network"),
    (
        av.error.InvalidDataError,
        "{where} sends no video, or not in time: check the path in the url, and the camera",
    ),
)


def _is_known(url: str) -> bool:
    """Return whether the name of a url's host resolves; FFmpeg says EIO where it does not."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, UnicodeError):
        return False
    return True


def _reason(error: av.FFmpegError, camera: Camera) -> str:
    """Say in our own words what happened and what to do."""
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    if not camera.live:
        if isinstance(error, OSError):
            return f"it cannot be read ({detail}): check the path"
        return "it is not a video, or a damaged one: choose a video file"
    where = address_of(camera.url)
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words.format(where=where)
    if isinstance(error, OSError) and error.errno == errno.EIO and not _is_known(camera.url):
        return f"the host of {where} is not known: check its name in the url, and the DNS"
    detail = detail or type(error).__name__
    return f"no video comes from {where} ({detail}): check the host, the path and the network"
