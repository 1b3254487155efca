"""Decode only the frames that become stills.

Packets are buffered. When a picture is requested, all packets since the last keyframe are decoded,
up to that picture. The next keyframe drops the buffer.

This is correct if each packet is one picture, packets come in display order, and nothing after a
keyframe refers to anything before it. A stream must prove this: a whole group of pictures is
decoded first. Streams with B-frames, open groups of pictures, or refresh without keyframes never
pass. After damage, or a broken rule, every packet is decoded on arrival until the stream has proved
itself again; the buffer is decoded first, so no reference is missing.
"""

from av.packet import Packet
from av.video.stream import VideoStream

from ingest.decoding.decoder import DecodedPicture, VideoDecoder

MAX_BUFFERED_BYTES = 4 << 20
"""Bytes of packets to buffer at most."""


class LazyDecoder:
    """Take packets on arrival, and decode them as late as possible.

    Raises av.FFmpegError as VideoDecoder does.
    """

    def __init__(self, decoder: VideoDecoder, *, decodes_all: bool = False) -> None:
        self._decoder = decoder
        self._decodes_all = decodes_all
        self._buffered: list[Packet[VideoStream]] | None = None
        self.buffered_bytes = 0
        self._last_pts: float | None = None
        self._is_one_to_one = False
        """Whether each packet since a keyframe was exactly one picture."""

    def take(
        self, packet: "Packet[VideoStream]", *, follows_loss: bool = False
    ) -> list[DecodedPicture] | None:
        """Return the pictures that a packet completes, or None if it is buffered.

        `follows_loss` says that packets before it were lost.
        """
        decoder = self._decoder
        decoder.take(packet, follows_loss=follows_loss)
        is_plain = self._observe_order(packet)
        can_buffer = is_plain and decoder.is_undamaged
        is_start = decoder.is_random_access_point
        if self._buffered is not None and not can_buffer:
            self._decode_buffered()
            self._buffered = None
        elif self._buffered is None and can_buffer and is_start and self._is_one_to_one:
            self._buffered = []
        if self._buffered is not None and self._buffer_packet(packet):
            return None
        pictures = self._decode_packet(packet, is_plain=is_plain)
        self._is_one_to_one |= is_plain and is_start and self._is_picture_of(packet, pictures)
        return pictures

    def decode(self) -> DecodedPicture | None:
        """Return the picture of the last, buffered packet; None if it may not be shown."""
        if not self._buffered:
            raise RuntimeError("request a picture once, before the next packet is taken")
        last = self._buffered[-1]
        pictures = self._decode_buffered()
        return pictures[0] if self._is_picture_of(last, pictures) else None

    def _observe_order(self, packet: "Packet[VideoStream]") -> bool:
        """Update the last timestamp; return whether the packet comes in display order."""
        decoder = self._decoder
        last, self._last_pts = self._last_pts, decoder.pts_seconds(packet)
        if self._decodes_all:
            return False
        if decoder.codec == "mjpeg":
            return packet.size > 0
        return self._last_pts is not None and (last is None or self._last_pts > last)

    def _buffer_packet(self, packet: "Packet[VideoStream]") -> bool:
        """Buffer a packet; return False if decoding to make room ended the buffering."""
        if self._decoder.is_random_access_point:
            self._buffered, self.buffered_bytes = [], 0
        elif self.buffered_bytes + packet.size > MAX_BUFFERED_BYTES:
            self._decode_buffered()
        if self._buffered is None:
            return False
        self._buffered.append(packet)
        self.buffered_bytes += packet.size
        return True

    def _decode_buffered(self) -> list[DecodedPicture]:
        """Decode the buffer; return the pictures of its last packet."""
        buffered, self._buffered, self.buffered_bytes = self._buffered or [], [], 0
        pictures = list[DecodedPicture]()
        for packet in buffered:
            pictures.clear()  # free its memory for the next picture
            pictures = self._decode_packet(packet, is_plain=True)
        if not self._is_one_to_one:
            self._buffered = None
        return pictures

    def _decode_packet(
        self, packet: "Packet[VideoStream]", *, is_plain: bool
    ) -> list[DecodedPicture]:
        """Decode a packet, and update whether each packet is one picture."""
        pictures = self._decoder.decode_taken(packet)
        is_whole = is_plain and self._decoder.is_undamaged
        self._is_one_to_one &= is_whole and self._is_picture_of(packet, pictures)
        return pictures

    def _is_picture_of(self, packet: "Packet[VideoStream]", pictures: list[DecodedPicture]) -> bool:
        return len(pictures) == 1 and pictures[0].picture.pts == packet.pts
