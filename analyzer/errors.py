"""The exceptions of analyzer.

ModelError
├── ModelUnusable   the files of a model cannot be used
├── NotFetched      a model could not be downloaded
├── OutOfMemory     the device has no room for a pass of one item
└── DeviceLost      the device failed during a pass and accepts no more work

Each message is one line and names the file.
"""


class ModelError(Exception):
    """Any error of analyzer about a model."""


class ModelUnusable(ModelError):
    """Report which file cannot be used, why, and what to do."""


class NotFetched(ModelError):
    """Report what could not be downloaded, why, and what to do."""


class OutOfMemory(ModelError):
    """Report that one window or question alone does not fit on the device."""


class DeviceLost(ModelError):
    """Report the error of a failed device; the process has to be replaced."""
