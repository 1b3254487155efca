"""The open stream of a live camera, read frame by frame.

The text and the `filename` of PyAV's errors hold the url with its password; none leaves
this module.
"""

import errno
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from ingest.address import address_of
from ingest.camera import Camera
from ingest.decoding import Decoded, Decoder, Unsuitable
from ingest.errors import CameraLost
from ingest.frames import Frame, NoPicture, Sight
from ingest.host_clock import steady_time
from ingest.packet_loss import PacketLoss
from ingest.redirects import url_to_open

_UNDECODABLE_AFTER = 8.0
_OPEN_TIMEOUT = 5
_READ_TIMEOUT = 3
_RTSP_PROTOCOLS = "rtsp,rtp,udp,tcp,tls"
_HTTP_PROTOCOLS = "http,https,tcp,tls"
_MICROSECOND = 1e-6
_WAITED = 0.002
"""Seconds that a read takes at least where the data was not there yet."""


class Source:
    """The open stream of a live camera; use it in a `with` block.

    Raises CameraLost, here and from `frames`.
    """

    def __init__(self, camera: Camera, steady: Callable[[], float] = steady_time) -> None:
        self._camera = camera
        self._steady = steady
        with self._told_plainly():
            self._container = _open(camera)
        try:
            self._loss = PacketLoss()
            self._decoder = Decoder(self._container, steady, self._loss)
        except Unsuitable as why:
            self._container.close()
            raise self._lost(str(why)) from None
        self.codec = self._decoder.codec
        self.width, self.height = self._decoder.width, self._decoder.height
        self._waited = False
        self._skips = False

    @property
    def rotation(self) -> int:
        """Return by how many degrees clockwise pictures are turned to be upright."""
        return self._decoder.rotation

    @property
    def pixel_aspect(self) -> float:
        """Return how many times as wide as high the pixels are."""
        return self._decoder.pixel_aspect

    def __enter__(self) -> Self:
        self._loss.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loss.__exit__()
        self._container.close()

    def frames(self) -> Iterator[Sight]:
        """Yield the pictures in the order in which they are shown, and why there is none."""
        camera_zero: float | None = None
        decoded_at = time.monotonic()
        for packet in self._packets():
            camera_zero = _camera_zero(packet, camera_zero)
            came = self._decoder.came
            with self._told_plainly():
                pictures = self._decoder.decode(packet)
            for picture in pictures:
                yield self._frame(picture, camera_zero)
            if self._decoder.came > came:
                decoded_at = time.monotonic()
            elif time.monotonic() - decoded_at > _UNDECODABLE_AFTER:
                raise self._lost("it sends data that cannot be decoded: check its video settings")
            if self._decoder.left_out:
                yield NoPicture(arrived=self._steady(), reason=self._decoder.left_out)
        raise self._lost("the stream ended: check that the camera is up")

    def skip(self) -> None:
        """Skip what has come already: decode on from the newest keyframe of it."""
        self._skips = True

    def _packets(self) -> "Iterator[Packet[VideoStream]]":
        """Yield the packets; where `skip` was called, from the newest keyframe that is there."""
        with self._told_plainly():
            packets = self._container.demux(self._decoder.stream)
            kept: list[Packet[VideoStream]] = []
            while True:
                began, sleeps = time.monotonic(), _sleeps()
                packet = next(packets, None)
                self._waited = time.monotonic() - began >= _WAITED and _sleeps() != sleeps
                if packet is None:
                    return
                if not self._skips:
                    yield packet
                    continue
                if packet.is_keyframe:
                    kept.clear()
                kept.append(packet)
                if self._waited:
                    self._skips = False
                    yield from kept
                    kept.clear()

    def _frame(self, decoded: Decoded, camera_zero: float | None) -> Frame:
        pts = decoded.pts
        return Frame(
            picture=decoded.picture,
            pts=pts,
            arrived=self._steady(),
            waited=self._waited,
            camera_time=None if pts is None or camera_zero is None else camera_zero + pts,
            pixel_aspect=decoded.pixel_aspect,
        )

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise self._lost(_reason(error, self._camera)) from None

    def _lost(self, reason: str) -> CameraLost:
        return CameraLost(self._camera.name, reason)


def _sleeps() -> int:
    """Return how often this thread gave the processor away; where unknown, a number of its own."""
    if hasattr(resource, "RUSAGE_THREAD"):
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    return time.monotonic_ns()


def _open(camera: Camera) -> InputContainer:
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
    return av.open(
        url,
        timeout=(_OPEN_TIMEOUT, _READ_TIMEOUT),
        options=options,
        metadata_errors="replace",
    )


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
    where = address_of(camera.url)
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words.format(where=where)
    if isinstance(error, OSError) and error.errno == errno.EIO and not _is_known(camera.url):
        return f"the host of {where} is not known: check its name in the url, and the DNS"
    detail = detail or type(error).__name__
    return f"no video comes from {where} ({detail}): check the host, the path and the network"
