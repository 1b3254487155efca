"""Decode the packets of a video stream, live or from a file."""

from collections.abc import Callable
from dataclasses import dataclass

import av
import av.error
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from ingest.decoding.damage import DamageTracker
from ingest.decoding.frame_numbers import FrameNumbers
from ingest.decoding.hevc_units import HevcUnits
from ingest.pictures.display_matrix import rotation_of

_MAX_PIXELS = 4096 * 4096
_UNTIMED_FORMATS = ("mjpeg", "mpjpeg")  # FFmpeg counts their frames at 25 a second
_MAX_DELAYED_PACKETS = 16
"""Packets that a decoder takes at most before it returns a picture (H.264, A.4.2)."""
_MAX_PIXEL_ASPECT = 4.0
"""A larger aspect, or a smaller one than its inverse, is a mistake."""


class UnsuitableVideo(Exception):
    """A container has no video to watch; the text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPicture:
    """A picture, its timestamp in seconds of stream time, and the aspect of its pixels."""

    picture: VideoFrame
    pts: float | None
    pixel_aspect: float

    @property
    def is_keyframe(self) -> bool:
        """Return whether it refers to no other picture."""
        return bool(self.picture.key_frame)


class VideoDecoder:
    """Decode the video of a container; omit what a loss damaged (`ingest.decoding.damage`).

    `clock` returns seconds that run with the stream; the default is its frame rate. Raises
    UnsuitableVideo if there is no video, or too large a one; `decode` raises av.FFmpegError.

    `decode` is `take` and `decode_taken`: packets may be taken on arrival and decoded later, in the
    same order. `is_random_access_point` says that the last packet taken is a keyframe, and
    that nothing after it refers to anything before it.

    `omission_reason` says why pictures of the last packet were omitted, empty if none were.
    `picture_count` counts all pictures, omitted or not. `rotation` is the clockwise turn that makes
    pictures upright, in degrees, known with the first picture.
    """

    def __init__(
        self,
        container: InputContainer,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.stream = _video_stream(container)
        self._context = self.stream.codec_context
        self._is_timed = container.format.name not in _UNTIMED_FORMATS
        self.codec = self._context.name
        self.width, self.height = self.stream.width, self.stream.height
        time_base = self.stream.time_base
        self._time_base = None if time_base is None else time_base.as_integer_ratio()
        self.period = float(1 / (self.stream.guessed_rate or 25))
        self.rotation = 0
        self.omission_reason = ""
        self.picture_count = 0
        self._clock = clock
        self._damage = DamageTracker()
        self._packet_number = -1
        self._frame_numbers = FrameNumbers(self._context.extradata or b"")
        self._hevc_units = HevcUnits(self._context.extradata or b"")
        self.is_random_access_point = False
        self._declared_aspect = self.stream.sample_aspect_ratio
        if self._declared_aspect == self._context.sample_aspect_ratio:
            self._declared_aspect = None  # the video's own value may change

    @property
    def pixel_aspect(self) -> float:
        """Return the width of a pixel divided by its height; 1 if unknown."""
        ratio = self._declared_aspect or self._context.sample_aspect_ratio or 1
        aspect = float(ratio)
        return aspect if 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT else 1.0

    def decode(
        self, packet: "Packet[VideoStream]", *, follows_loss: bool = False
    ) -> list[DecodedPicture]:
        """Return the pictures that a packet completes, in display order.

        `follows_loss` says that packets before it were lost.
        """
        self.take(packet, follows_loss=follows_loss)
        return self.decode_taken(packet)

    @property
    def is_undamaged(self) -> bool:
        """Return whether no picture is omitted now because of a loss."""
        return self._damage.is_undamaged

    def take(self, packet: "Packet[VideoStream]", *, follows_loss: bool = False) -> None:
        """Number a packet, and detect a loss before it or in it."""
        self.omission_reason = ""
        self._packet_number = number = self._packet_number + 1
        packet.opaque = number
        now = number * self.period if self._clock is None else self._clock()
        self._damage.record_packet(number, now, is_keyframe=packet.is_keyframe)
        if self.codec == "h264":
            if self._frame_numbers.observe(bytes(packet)):
                self._damage.record_loss(number, number - 1)
        elif follows_loss:  # it may be in the next packet
            self._damage.record_loss(number, number + 1)
        elif packet.is_corrupt:
            self._damage.record_loss(number, number)
        self.is_random_access_point = self._detect_random_access(packet)

    def decode_taken(self, packet: "Packet[VideoStream]") -> list[DecodedPicture]:
        """Return the pictures that a packet completes which was taken before."""
        self.omission_reason = ""
        number = packet.opaque if isinstance(packet.opaque, int) else self._packet_number
        try:
            pictures = packet.decode()
        except av.error.InvalidDataError:
            self.omission_reason = "damaged video was skipped"
            if self.codec not in (
                "h264",
                "hevc",
            ):  # these report it for data that is no picture, too
                self._damage.record_loss(number, number)
            return []
        self.picture_count += len(pictures)
        shown = [picture for picture in pictures if self._accept_picture(picture, number)]
        if len(shown) < len(pictures) or self._check_first_picture():
            self.omission_reason = self._damage.reason
        return [self._wrap_picture(picture) for picture in shown]

    def pts_seconds(self, coded: "Packet[VideoStream] | VideoFrame") -> float | None:
        """Return the timestamp of a packet or picture in seconds of stream time."""
        return self.to_seconds(coded.pts) if self._is_timed else None

    def to_seconds(self, pts: int | None) -> float | None:
        """Return a timestamp of the stream in seconds."""
        if pts is None or self._time_base is None:
            return None
        numerator, denominator = self._time_base  # a Fraction is slow, for every packet
        return pts * numerator / denominator

    def _detect_random_access(self, packet: "Packet[VideoStream]") -> bool:
        match self.codec:
            case "h264":
                return self._frame_numbers.is_idr
            case "hevc":
                return self._hevc_units.is_random_access_point(bytes(packet))
            case "mjpeg":
                return packet.size > 0
        return False

    def _accept_picture(self, picture: VideoFrame, number: int) -> bool:
        number = picture.opaque if isinstance(picture.opaque, int) else number
        if picture.is_corrupt:
            self._damage.record_loss(number, number)
        kind = picture.pict_type
        is_intra = picture.key_frame or kind in (PictureType.I, PictureType.NONE)
        return self._damage.accept_picture(number, is_intra=is_intra)

    def _check_first_picture(self) -> bool:
        """Return whether the first picture is overdue; let FFmpeg output damaged ones in the end.

        FFmpeg withholds pictures before the first keyframe.
        """
        damage = self._damage
        if not damage.is_waiting_for_first or self._packet_number < _MAX_DELAYED_PACKETS:
            return False
        if damage.is_over_limit:
            self._context.flags |= Flags.output_corrupt
        return True

    def _wrap_picture(self, picture: VideoFrame) -> DecodedPicture:
        self.rotation = rotation_of(picture)
        pts = self.pts_seconds(picture)
        return DecodedPicture(picture=picture, pts=pts, pixel_aspect=self.pixel_aspect)


def video_tracks(container: InputContainer) -> list[VideoStream]:
    """Return the video tracks, without the cover picture of a recording."""
    cover = Disposition.attached_pic
    return [each for each in container.streams.video if not each.disposition & cover]


def _video_stream(container: InputContainer) -> VideoStream:
    tracks = video_tracks(container)
    if not tracks:
        raise UnsuitableVideo("there is no video track, only sound or data: choose another stream")
    stream = tracks[0]
    if not stream.codec_context:  # FFmpeg has no decoder for it
        raise UnsuitableVideo("its codec is unknown: set the camera to H.264, H.265 or MJPEG")
    if stream.width * stream.height > _MAX_PIXELS:
        raise UnsuitableVideo("its pictures have too many pixels: choose another stream")
    context = stream.codec_context
    context.options = {"max_pixels": str(_MAX_PIXELS)}
    context.thread_count = 1
    context.copy_opaque = True
    if context.name == "hevc":  # FFmpeg would withhold all of a stream with intra refresh
        context.flags |= Flags.output_corrupt
    return stream
