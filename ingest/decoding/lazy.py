"""Decode only what is looked at.

Most frames of a camera become no still. Packets are held, and where a picture is asked for, the
chain of those since the last keyframe is decoded, up to it. A keyframe ends the chain before it.

That is right where each packet is one picture, in the order in which pictures are shown, and where
nothing behind a keyframe refers to what is before it. A stream must prove it: for a whole group of
pictures all are decoded. B-frames, open groups of pictures, and refresh without keyframes never
do. What is damaged, or turns out to be another, is decoded as it comes until it has proved itself
again. A decoder that begins to decode all has seen all that it refers to.
"""

from av.packet import Packet
from av.video.stream import VideoStream

from ingest.decoding.decoder import DecodedPicture, VideoDecoder

MAX_BUFFERED_BYTES = 4 << 20
"""Bytes of packets that are held at most."""


class LazyDecoder:
    """Take packets as they come, and decode them as late as can be.

    Raises av.FFmpegError as `Decoder` does. `held_bytes` is how much is held.
    """

    def __init__(self, decoder: VideoDecoder, *, decodes_all: bool = False) -> None:
        self._decoder = decoder
        self._decodes_all = decodes_all
        self._buffered: list[Packet[VideoStream]] | None = None
        self.buffered_bytes = 0
        self._last_pts: float | None = None
        self._is_one_to_one = False
        """Whether each packet since a keyframe was one picture, itself."""

    def take(
        self, packet: "Packet[VideoStream]", *, follows_loss: bool = False
    ) -> list[DecodedPicture] | None:
        """Return the pictures that a packet completes; None where it is held.

        `follows_loss` says that something was lost on the way before it.
        """
        decoder = self._decoder
        decoder.take(packet, follows_loss=follows_loss)
        is_plain = self._observe_order(packet)
        can_buffer = is_plain and decoder.is_undamaged
        if self._buffered is not None and not can_buffer:
            self._decode_buffered()
            self._buffered = None
        elif (
            self._buffered is None
            and can_buffer
            and decoder.is_random_access_point
            and self._is_one_to_one
        ):
            self._buffered = []
        if self._buffered is not None and self._buffer_packet(packet):
            return None
        pictures = self._decode_packet(packet, is_plain=is_plain)
        self._is_one_to_one |= (
            is_plain and decoder.is_random_access_point and self._is_picture_of(packet, pictures)
        )
        return pictures

    def decode(self) -> DecodedPicture | None:
        """Return the picture of the last packet, which is held; None where it may not be shown."""
        if not self._buffered:
            raise RuntimeError("a picture is asked for once, before the next packet is taken")
        last = self._buffered[-1]
        pictures = self._decode_buffered()
        return pictures[0] if self._is_picture_of(last, pictures) else None

    def _observe_order(self, packet: "Packet[VideoStream]") -> bool:
        """Return whether a packet goes on as one of a stream that can be held."""
        decoder = self._decoder
        last, self._last_pts = self._last_pts, decoder.pts_seconds(packet)
        if self._decodes_all:
            return False
        if decoder.codec == "mjpeg":
            return packet.size > 0
        return self._last_pts is not None and (last is None or self._last_pts > last)

    def _buffer_packet(self, packet: "Packet[VideoStream]") -> bool:
        """Hold a packet, unless what is before it, decoded to make room, turns out damaged."""
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
        """Decode what is held; return the pictures that the last of it completes."""
        buffered, self._buffered, self.buffered_bytes = self._buffered or [], [], 0
        pictures = list[DecodedPicture]()
        for packet in buffered:
            pictures.clear()  # the next one is decoded into the memory of the last
            pictures = self._decode_packet(packet, is_plain=True)
        if not self._is_one_to_one:
            self._buffered = None
        return pictures

    def _decode_packet(
        self, packet: "Packet[VideoStream]", *, is_plain: bool
    ) -> list[DecodedPicture]:
        """Decode a packet; see whether it is one picture, itself, as those that can be held."""
        pictures = self._decoder.decode_taken(packet)
        self._is_one_to_one &= (
            is_plain and self._decoder.is_undamaged and self._is_picture_of(packet, pictures)
        )
        return pictures

    def _is_picture_of(self, packet: "Packet[VideoStream]", pictures: list[DecodedPicture]) -> bool:
        return len(pictures) == 1 and pictures[0].picture.pts == packet.pts
