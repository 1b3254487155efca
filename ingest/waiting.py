"""How long a picture is waited for while a camera's connection stands."""

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import CameraLost, Loss

FIRST_PICTURE = 90.0
"""Seconds without a picture: keyframes may be far apart, and a relay may let nothing out before."""
_UNDECODABLE_AFTER = 8.0
_UNDECODABLE_PACKETS = 16
"""How long, and how much, comes behind a keyframe without a picture where none can be decoded."""
NO_PICTURE_YET = "the camera answers, no picture yet"
WAITING_FOR_KEYFRAME = "waiting for a keyframe"


class Wait:
    """The wait for a picture, from an instant of the steady clock on."""

    def __init__(self, camera: Camera, since: float) -> None:
        self._camera = camera
        self._since = since
        self._packets = 0
        self._key_at: float | None = None
        self._behind_key = 0

    @property
    def reason(self) -> str:
        """Return why there is no picture."""
        waits_for_key = self._packets and self._key_at is None
        return WAITING_FOR_KEYFRAME if waits_for_key else NO_PICTURE_YET

    def came(self, at: float, *, is_key: bool) -> None:
        """Take that a packet came and made no picture; raises CameraLost where that is too much."""
        self._packets += 1
        if is_key and self._key_at is None:
            self._key_at = at
        if self._key_at is not None:
            self._behind_key += 1
            lasted = at - self._key_at
            if lasted > _UNDECODABLE_AFTER and self._behind_key > _UNDECODABLE_PACKETS:
                told = "it sends data that cannot be decoded: check its video settings"
                raise CameraLost(self._camera.name, told)
        self.check(at)

    def check(self, now: float) -> None:
        """Raise CameraLost where the wait was too long."""
        if now - self._since <= FIRST_PICTURE:
            return
        where = address_of(self._camera.url)
        if self._packets and self._key_at is None:
            told = (
                f"{where} sent no keyframe in {FIRST_PICTURE:.0f} s: set its keyframe interval"
                " (GOP, I-frame distance) to a few seconds"
            )
        else:
            told = f"{where} answers, no picture yet: check the camera, or the source of the relay"
            if self._camera.transport == "udp":
                told += "; where a firewall keeps UDP out, set `transport: tcp`"
        raise CameraLost(self._camera.name, told, Loss.SILENT)
