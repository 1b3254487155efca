"""Turn the packets of an open stream into frames, with the camera's clock."""

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

from ingest.decoding.decoder import DecodedPicture, VideoDecoder
from ingest.decoding.lazy import LazyDecoder
from ingest.frames import CodedFrame, Frame, NoPicture, StreamItem

_MICROSECOND = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPacket:
    """A packet; `received_at` is in steady seconds, `waited` says that the read had to wait for it.

    `follows_loss` says that RTP packets before it were lost.
    """

    packet: "Packet[VideoStream]"
    received_at: float
    waited: bool
    follows_loss: bool


class StreamDecoder:
    """Turn the packets of one stream into frames.

    All decoding happens within `translate_errors`, which turns FFmpeg's errors into ours.
    """

    def __init__(
        self,
        decoder: VideoDecoder,
        translate_errors: Callable[[], AbstractContextManager[None]],
        *,
        decodes_all: bool,
    ) -> None:
        self.decoder = decoder
        self._lazy = LazyDecoder(decoder, decodes_all=decodes_all)
        self._translate_errors = translate_errors
        self._camera_zero: float | None = None

    def decode(self, received: ReceivedPacket) -> list[StreamItem]:
        """Return the frames of a packet in display order, or why there is none."""
        self._measure_camera_zero(received.packet)
        with self._translate_errors():
            pictures = self._lazy.take(received.packet, follows_loss=received.follows_loss)
        if pictures is None:
            return [self._build_coded_frame(received)]
        items: list[StreamItem] = [self._build_frame(picture, received) for picture in pictures]
        if reason := self.decoder.omission_reason:
            items.append(NoPicture(arrived=received.received_at, reason=reason))
        return items

    def _build_coded_frame(self, received: ReceivedPacket) -> CodedFrame:
        pts = self.decoder.pts_seconds(received.packet)
        return CodedFrame(
            pts=pts,
            arrived=received.received_at,
            waited=received.waited,
            camera_time=self._camera_time(pts),
            is_keyframe=self.decoder.is_random_access_point,
            decode=lambda: self._decode_coded_frame(received),
        )

    def _decode_coded_frame(self, received: ReceivedPacket) -> Frame | NoPicture:
        with self._translate_errors():
            picture = self._lazy.decode()
        if picture is None:
            reason = self.decoder.omission_reason or "a picture could not be decoded"
            return NoPicture(arrived=received.received_at, reason=reason)
        return self._build_frame(picture, received)

    def _build_frame(self, decoded: DecodedPicture, received: ReceivedPacket) -> Frame:
        return Frame(
            picture=decoded.picture,
            pts=decoded.pts,
            arrived=received.received_at,
            waited=received.waited,
            camera_time=self._camera_time(decoded.pts),
            is_keyframe=decoded.is_keyframe,
            pixel_aspect=decoded.pixel_aspect,
        )

    def _camera_time(self, pts: float | None) -> float | None:
        return None if pts is None or self._camera_zero is None else self._camera_zero + pts

    def _measure_camera_zero(self, packet: "Packet[VideoStream]") -> None:
        """Read the camera's wall clock at timestamp 0 from the packet's sender report, if any.

        FFmpeg attaches it as AVProducerReferenceTime: int64 microseconds, then int flags.
        """
        seconds = self.decoder.to_seconds(packet.pts)
        if seconds is not None and packet.has_sidedata("prft"):
            microseconds, _ = struct.unpack_from("<qi", bytes(packet.get_sidedata("prft")))
            self._camera_zero = microseconds * _MICROSECOND - seconds
