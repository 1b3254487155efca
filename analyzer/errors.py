"""What can go wrong in analyzer.

ModelError
├── ModelUnusable   a model cannot be used as it lies on the disk
├── NotFetched      a model could not be brought to the disk
├── OutOfMemory     the device has no room for a pass, however small
└── DeviceLost      the device failed in the middle of a pass and takes no more work

Each text is one line for a person, and names the file.
"""


class ModelError(Exception):
    """Anything that analyzer reports about a model."""


class ModelUnusable(ModelError):
    """Say which file cannot be used, why, and what to do."""


class NotFetched(ModelError):
    """Say what could not be fetched, why, and what to do."""


class OutOfMemory(ModelError):
    """Say that the device had no room for one window or question by itself."""


class DeviceLost(ModelError):
    """Say that the device failed, and what it said: a new process has to take over."""
