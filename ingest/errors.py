"""What can go wrong between a camera and the log.

IngestError
├── BadAddress   the url cannot be used as it is written
├── CameraLost   the camera gives no pictures now; it is tried again, when depends on the Loss
└── BadVideo     the file gives no pictures

No text holds a url or any part of one that could be a password.
"""

from enum import StrEnum


class LossKind(StrEnum):
    """The kind of a loss, which decides when the camera is tried again (`ingest.live.reconnect`)."""

    GONE = "gone"
    """Nothing answers, the connection broke, or the stream is refused for now."""
    SILENT = "silent"
    """The camera answered, and gave nothing in time: the try itself was the wait."""
    LOG_IN = "log-in"
    """The log-in was refused: each try may bring the camera closer to locking us out."""
    SETTINGS = "settings"
    """It stays so until somebody changes a setting, here or in the camera."""


class IngestError(Exception):
    """Anything that ingest reports; its text is one line for a person."""


class BadAddress(IngestError, ValueError):
    """Say what is wrong with a camera's url, and how to write it."""


class CameraLost(IngestError):
    """Say why the camera gives no pictures, and what to do."""

    def __init__(self, camera: str, reason: str, kind: LossKind = LossKind.GONE) -> None:
        super().__init__(f"camera {camera}: {reason}")
        self.camera = camera
        self.reason = reason
        self.kind = kind


class BadVideo(IngestError):
    """Say why the file gives no pictures, and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
