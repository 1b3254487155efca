"""What can go wrong between a camera and the log.

IngestError
├── BadAddress   the url cannot be used as it is written
├── CameraLost   the camera gives no pictures now; it is tried again
└── BadVideo     the file gives no pictures

No text holds a url or any part of one that could be a password.
"""


class IngestError(Exception):
    """Anything that ingest reports; its text is one line for a person."""


class BadAddress(IngestError, ValueError):
    """Say what is wrong with a camera's url, and how to write it."""


class CameraLost(IngestError):
    """Say why the camera gives no pictures, and what to do."""

    def __init__(self, camera: str, reason: str) -> None:
        super().__init__(f"camera {camera}: {reason}")
        self.camera = camera
        self.reason = reason


class BadVideo(IngestError):
    """Say why the file gives no pictures, and what to do."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
