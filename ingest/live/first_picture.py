"""Wait for the first picture of an open connection."""

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import CameraLost, LossKind

FIRST_PICTURE_TIMEOUT = 90.0
"""Seconds without a picture: keyframes may be far apart, and a relay may wait for one."""
_UNDECODABLE_AFTER = 8.0
_UNDECODABLE_PACKETS = 16
"""Seconds and packets after a keyframe without a picture: the video cannot be decoded."""
NO_PICTURE_YET = "the camera answers, no picture yet"
WAITING_FOR_KEYFRAME = "waiting for a keyframe"


class FirstPictureWait:
    """The wait for a picture, from an instant of the steady clock on."""

    def __init__(self, camera: Camera, since: float) -> None:
        self._camera = camera
        self._since = since
        self._packets = 0
        self._keyframe_at: float | None = None
        self._packets_since_keyframe = 0

    @property
    def reason(self) -> str:
        """Return why there is no picture."""
        return WAITING_FOR_KEYFRAME if self._lacks_keyframe else NO_PICTURE_YET

    @property
    def _lacks_keyframe(self) -> bool:
        return self._packets > 0 and self._keyframe_at is None

    def record_packet(self, at: float, *, is_keyframe: bool) -> None:
        """Record a packet that made no picture; raise CameraLost if there are too many."""
        self._packets += 1
        if is_keyframe and self._keyframe_at is None:
            self._keyframe_at = at
        if self._keyframe_at is not None:
            self._packets_since_keyframe += 1
            elapsed = at - self._keyframe_at
            if elapsed > _UNDECODABLE_AFTER and self._packets_since_keyframe > _UNDECODABLE_PACKETS:
                reason = "it sends data that cannot be decoded: check its video settings"
                raise CameraLost(self._camera.name, reason)
        self.check(at)

    def check(self, now: float) -> None:
        """Raise CameraLost if the wait was too long."""
        if now - self._since <= FIRST_PICTURE_TIMEOUT:
            return
        where = address_of(self._camera.url)
        if self._lacks_keyframe:
            text = (
                f"{where} sent no keyframe in {FIRST_PICTURE_TIMEOUT:.0f} s: set its keyframe"
                " interval (GOP, I-frame distance) to a few seconds"
            )
        else:
            text = f"{where} answers, no picture yet: check the camera, or the source of the relay"
            if self._camera.transport == "udp":
                text += "; if a firewall blocks UDP, set `transport: tcp`"
        raise CameraLost(self._camera.name, text, LossKind.SILENT)
