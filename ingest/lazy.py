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

from ingest.decoding import Decoded, Decoder

MOST_HELD = 4 << 20
"""Bytes of packets that are held at most."""


class LazyDecoder:
    """Take packets as they come, and decode them as late as can be.

    Raises av.FFmpegError as `Decoder` does. `held_bytes` is how much is held.
    """

    def __init__(self, decoder: Decoder, *, decodes_all: bool = False) -> None:
        self._decoder = decoder
        self._decodes_all = decodes_all
        self._held: list[Packet[VideoStream]] | None = None
        self.held_bytes = 0
        self._pts: float | None = None
        self._is_proving = False
        """Whether each packet since a keyframe was one picture, itself."""

    def take(
        self, packet: "Packet[VideoStream]", *, follows_loss: bool = False
    ) -> list[Decoded] | None:
        """Return the pictures that a packet completes; None where it is held.

        `follows_loss` says that something was lost on the way before it.
        """
        decoder = self._decoder
        decoder.take(packet, follows_loss=follows_loss)
        is_plain = self._is_plain(packet)
        may_hold = is_plain and decoder.is_whole
        if self._held is not None and not may_hold:
            self._catch_up()
            self._held = None
        elif self._held is None and may_hold and decoder.stands_alone and self._is_proving:
            self._held = []
        if self._held is not None and self._holds(packet):
            return None
        pictures = self._pictures(packet, is_plain=is_plain)
        self._is_proving |= is_plain and decoder.stands_alone and self._is_of(packet, pictures)
        return pictures

    def decode(self) -> Decoded | None:
        """Return the picture of the last packet, which is held; None where it may not be shown."""
        if not self._held:
            raise RuntimeError("a picture is asked for once, before the next packet is taken")
        last = self._held[-1]
        pictures = self._catch_up()
        return pictures[0] if self._is_of(last, pictures) else None

    def _is_plain(self, packet: "Packet[VideoStream]") -> bool:
        """Return whether a packet goes on as one of a stream that can be held."""
        decoder = self._decoder
        last, self._pts = self._pts, decoder.pts(packet)
        if self._decodes_all:
            return False
        if decoder.codec == "mjpeg":
            return packet.size > 0
        return self._pts is not None and (last is None or self._pts > last)

    def _holds(self, packet: "Packet[VideoStream]") -> bool:
        """Hold a packet, unless what is before it, decoded to make room, turns out damaged."""
        if self._decoder.stands_alone:
            self._held, self.held_bytes = [], 0
        elif self.held_bytes + packet.size > MOST_HELD:
            self._catch_up()
        if self._held is None:
            return False
        self._held.append(packet)
        self.held_bytes += packet.size
        return True

    def _catch_up(self) -> list[Decoded]:
        """Decode what is held; return the pictures that the last of it completes."""
        held, self._held, self.held_bytes = self._held or [], [], 0
        pictures = list[Decoded]()
        for packet in held:
            pictures.clear()  # the next one is decoded into the memory of the last
            pictures = self._pictures(packet, is_plain=True)
        if not self._is_proving:
            self._held = None
        return pictures

    def _pictures(self, packet: "Packet[VideoStream]", *, is_plain: bool) -> list[Decoded]:
        """Decode a packet; see whether it is one picture, itself, as those that can be held."""
        pictures = self._decoder.pictures(packet)
        self._is_proving &= is_plain and self._decoder.is_whole and self._is_of(packet, pictures)
        return pictures

    def _is_of(self, packet: "Packet[VideoStream]", pictures: list[Decoded]) -> bool:
        return len(pictures) == 1 and pictures[0].picture.pts == packet.pts
