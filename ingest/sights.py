"""What the packets of an open stream show, and what the camera's clock says of it."""

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

from ingest.decoding import Decoded, Decoder
from ingest.frames import CodedFrame, Frame, NoPicture, Sight
from ingest.lazy import LazyDecoder

_MICROSECOND = 1e-6
_NOT_DECODED = "a picture could not be decoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A packet, when it was read in steady seconds, and whether the read had to wait for it.

    `follows_loss` says that packets of RTP were lost before it.
    """

    packet: "Packet[VideoStream]"
    at: float
    waited: bool
    follows_loss: bool


class Sights:
    """Make sights of what is read from one stream.

    All decoding happens within `told_plainly`, which turns FFmpeg's errors into ours.
    """

    def __init__(
        self,
        decoder: Decoder,
        told_plainly: Callable[[], AbstractContextManager[None]],
        *,
        decodes_all: bool,
    ) -> None:
        self.decoder = decoder
        self._lazy = LazyDecoder(decoder, decodes_all=decodes_all)
        self._told_plainly = told_plainly
        self._camera_zero: float | None = None

    def of(self, read: Read) -> list[Sight]:
        """Return the pictures that came, in the order in which they are shown, or why none did."""
        self._measure_camera_zero(read.packet)
        with self._told_plainly():
            pictures = self._lazy.take(read.packet, follows_loss=read.follows_loss)
        if pictures is None:
            return [self._coded(read)]
        sights: list[Sight] = [self._frame(picture, read) for picture in pictures]
        if self.decoder.left_out:
            sights.append(NoPicture(arrived=read.at, reason=self.decoder.left_out))
        return sights

    def _coded(self, read: Read) -> CodedFrame:
        pts = self.decoder.pts(read.packet)
        return CodedFrame(
            pts=pts,
            arrived=read.at,
            waited=read.waited,
            camera_time=self._camera_time(pts),
            is_keyframe=self.decoder.stands_alone,
            decode=lambda: self._decoded(read),
        )

    def _decoded(self, read: Read) -> Frame | NoPicture:
        with self._told_plainly():
            picture = self._lazy.decode()
        if picture is None:
            return NoPicture(arrived=read.at, reason=self.decoder.left_out or _NOT_DECODED)
        return self._frame(picture, read)

    def _frame(self, decoded: Decoded, read: Read) -> Frame:
        return Frame(
            picture=decoded.picture,
            pts=decoded.pts,
            arrived=read.at,
            waited=read.waited,
            camera_time=self._camera_time(decoded.pts),
            is_keyframe=decoded.is_keyframe,
            pixel_aspect=decoded.pixel_aspect,
        )

    def _camera_time(self, pts: float | None) -> float | None:
        return None if pts is None or self._camera_zero is None else self._camera_zero + pts

    def _measure_camera_zero(self, packet: "Packet[VideoStream]") -> None:
        """Take the camera's wall clock at timestamp 0 from the packet's sender report, if any.

        FFmpeg tells it as AVProducerReferenceTime: int64 microseconds, then int flags.
        """
        seconds = self.decoder.seconds(packet.pts)
        if seconds is not None and packet.has_sidedata("prft"):
            microseconds, _ = struct.unpack_from("<qi", bytes(packet.get_sidedata("prft")))
            self._camera_zero = microseconds * _MICROSECOND - seconds
