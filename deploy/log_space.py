"""How many bytes of windows the log keeps, and how long those of these cameras last in it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from pathlib import Path

from deploy.data import LOG_FILE
from deploy.errors import Failed
from deploy.settings import Settings
from deploy.units import cameras_text, size_text
from ingest.settings import CameraSettings
from storage.duration import format_duration
from storage.retention import LEAST, Retention, retention
from storage.settings import LogSettings
from storage.window_sizes import window_sizes

STILL_BYTES, STILL_PIXELS = 64_600, 640 * 480
"""A noisy still as a JPEG of quality 85, as measured on cameras' own pictures."""
SHARE = 5
"""Without a limit the log may take a fifth of its disk."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A file system, as seen from the folder that is to be on it; sizes in bytes."""

    folder: Path
    total: int
    free: int

    @classmethod
    def of(cls, folder: Path) -> "Disk":
        """Look at the disk of a folder that may still have to be made; raise Failed."""
        try:
            there = next(each for each in (folder, *folder.parents) if each.exists())
            usage = shutil.disk_usage(there)
        except OSError as error:
            told = f"{folder}: {error.strerror}: name a data directory that can be read"
            raise Failed(told) from None
        return cls(folder=folder, total=usage.total, free=usage.free)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSpace:
    """What the log keeps of the windows of all cameras.

    `rates` are bytes a second of each camera, for `measured` of them as their windows in the log
    are; `fullest` is the part of all bytes that goes into the fullest of the equal shares into
    which `limit` is divided. `disk` is None, and `taken` 0, where a broker keeps the log.
    """

    rates: Mapping[str, float]
    stills: float
    measured: int
    limit: int
    keep: timedelta
    fullest: float
    shares: int
    disk: Disk | None
    taken: int

    @property
    def rate(self) -> float:
        """Return the bytes a second of all cameras."""
        return sum(self.rates.values())

    @property
    def still_bytes(self) -> int:
        """Return the mean bytes of a still."""
        return round(self.rate / self.stills)

    @property
    def lasting(self) -> timedelta:
        """Return how long windows stay before the limit drops them; 10 years at most."""
        seconds = self.limit / self.shares / (self.fullest * self.rate)
        return min(timedelta(seconds=seconds), timedelta(days=3650))

    @property
    def span(self) -> timedelta:
        """Return how far back the log reaches."""
        return min(self.keep, self.lasting)

    @property
    def growth(self) -> int:
        """Return the bytes that the log may still take of its disk."""
        most = min(self.limit, ceil(self.rate * self.keep.total_seconds()))
        return max(0, most - self.taken)

    @property
    def fits_disk(self) -> bool:
        """Return whether the disk has room for all that the log may still take."""
        return self.disk is None or self.growth <= self.disk.free

    def limit_for(self, span: timedelta) -> int:
        """Return the least limit with which windows last for a span."""
        return ceil(self.fullest * self.rate * span.total_seconds()) * self.shares


def limit_of(log: LogSettings, data: Path) -> int:
    """Return how many bytes of windows a log keeps in all; raise Failed where no disk is found."""
    if log.limit is not None:
        return log.limit
    if log.kafka is not None:
        return log.kafka.partitions * LEAST
    return max(LEAST, Disk.of(data).total // SHARE)


def retention_of(log: LogSettings, data: Path) -> tuple[Retention, ...]:
    """Return how much of each topic is kept; on Kafka, of each partition of it."""
    shares = log.kafka.partitions if log.kafka is not None else 1
    return retention(limit_of(log, data) // shares, log.keep)


def log_space(settings: Settings) -> LogSpace:
    """Return what the log keeps under these settings, and what it holds; raise Failed."""
    log, cameras, file = settings.log, settings.cameras, settings.data / LOG_FILE
    is_file = log.kafka is None
    sizes = window_sizes(file) if is_file else {}
    rates = {name: _rate(camera, sizes.get(name)) for name, camera in cameras.items()}
    shares = 1 if log.kafka is None else log.kafka.partitions
    return LogSpace(
        rates=rates,
        stills=sum(camera.fps for camera in cameras.values()),
        measured=len(sizes.keys() & cameras.keys()),
        limit=limit_of(log, settings.data),
        keep=log.keep,
        fullest=_fullest(rates, shares),
        shares=shares,
        disk=Disk.of(settings.data) if is_file else None,
        taken=_size_of(file) if is_file else 0,
    )


def log_text(space: LogSpace) -> str:
    """Say how far back the log reaches, for whom and why."""
    known = {0: "estimated", len(space.rates): "measured"}
    how = known.get(space.measured, f"{space.measured} of them measured")
    return (
        f"windows: {span_text(space.span)} of {cameras_text(len(space.rates))} at about"
        f" {size_text(space.still_bytes)} a still ({how});"
        f" limit {size_text(space.limit)}, keep {format_duration(space.keep)}"
    )


def log_fields(space: LogSpace) -> dict[str, object]:
    """Return the same for a machine: seconds and bytes."""
    return {
        "span": round(space.span.total_seconds()),
        "keep": round(space.keep.total_seconds()),
        "limit": space.limit,
        "still_bytes": space.still_bytes,
        "bytes_per_second": round(space.rate),
        "measured_cameras": space.measured,
        "growth": space.growth,
        "disk": space.disk and {"total": space.disk.total, "free": space.disk.free},
    }


def span_text(span: timedelta) -> str:
    """Write how long something is, in hours where it is more than one, else in whole seconds."""
    if span >= _HOUR:
        return f"{span / _HOUR:.1f} h"
    return format_duration(timedelta(seconds=int(span.total_seconds())))


def _size_of(file: Path) -> int:
    """Return the bytes of a file; 0 where it is missing, or is another user's."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _rate(camera: CameraSettings, window: int | None) -> float:
    """Return the bytes a second of a camera whose windows have this size, as far as it is known.

    Estimated for a picture of 4:3, the largest of its width that is usual.
    """
    if window is not None:
        return window / camera.window.total_seconds()
    pixels = camera.still_side**2 * 3 / 4
    return camera.fps * STILL_BYTES * pixels / STILL_PIXELS


def _fullest(rates: Mapping[str, float], partitions: int) -> float:
    """Return the part of all bytes that goes into the fullest of the partitions."""
    if partitions == 1:
        return 1.0
    from storage.kafka_log import partition_number  # noqa: PLC0415  loads Kafka's client

    filled = [0.0] * partitions
    for camera, rate in rates.items():
        filled[partition_number(camera, partitions)] += rate
    return max(filled) / sum(filled)
