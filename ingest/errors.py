"""Errors between a camera and the log.

IngestError
├── BadAddress   the url is not valid
├── CameraLost   the camera sends no pictures now; its LossKind decides when to try again
└── BadVideo     the file has no pictures

No message contains a url, or any part of one that could be a password.
"""

from enum import StrEnum


class LossKind(StrEnum):
    """The kind of a loss, which decides when to try again (`ingest.live.reconnect`)."""

    GONE = "gone"
    """Nothing answers, the connection broke, or the stream is refused for now."""
    SILENT = "silent"
    """The camera answered but sent nothing in time: the try itself was the wait."""
    LOG_IN = "log-in"
    """The camera refused the log-in: each try may bring a lock-out closer."""
    SETTINGS = "settings"
    """The loss lasts until a setting changes, here or in the camera."""


class IngestError(Exception):
    """An error of ingest; its text is one line for a person."""


class BadAddress(IngestError, ValueError):
    """A camera's url is not valid; the text says how to write it."""


class CameraLost(IngestError):
    """The camera sends no pictures; the text says why, and what to do."""

    def __init__(self, camera: str, reason: str, kind: LossKind = LossKind.GONE) -> None:
        super().__init__(f"camera {camera}: {reason}")
        self.camera = camera
        self.reason = reason
        self.kind = kind


class BadVideo(IngestError):
    """The file has no pictures; the text says why, and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
