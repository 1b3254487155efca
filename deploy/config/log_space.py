"""How many bytes of windows the log keeps, and for how long."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from pathlib import Path

from deploy.config.data_dir import LOG_FILE
from deploy.config.settings import LongwatchSettings
from deploy.errors import CommandFailed
from deploy.format_bytes import format_bytes, format_camera_count
from ingest.settings import CameraSettings
from storage.duration import format_duration
from storage.log.retention import MIN_WINDOW_BYTES, TopicRetention, topic_retention
from storage.log.sqlite.window_sizes import median_window_bytes
from storage.settings import LogSettings

STILL_BYTES, STILL_PIXELS = 64_600, 640 * 480
"""A noisy still as a JPEG of quality 85, measured on cameras' pictures."""
DISK_FRACTION = 5
"""Without a limit the log may take a fifth of its disk."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskUsage:
    """The file system of a folder; sizes in bytes."""

    folder: Path
    total_bytes: int
    free_bytes: int

    @classmethod
    def measure(cls, folder: Path) -> "DiskUsage":
        """Measure the disk of a folder that may not exist yet; raise CommandFailed."""
        try:
            existing = next(each for each in (folder, *folder.parents) if each.exists())
            usage = shutil.disk_usage(existing)
        except OSError as error:
            message = f"{folder}: {error.strerror}: name a data directory that can be read"
            raise CommandFailed(message) from None
        return cls(folder=folder, total_bytes=usage.total, free_bytes=usage.free)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSpace:
    """How many windows of all cameras the log keeps.

    The log contains windows of `measured_cameras`; the rates of the others are estimates. `limit`
    is divided equally among `partitions`, and `largest_partition_share` of all bytes goes into
    the fullest one. `disk` is None, and `used_bytes` 0, if a broker keeps the log.
    """

    bytes_per_second_by_camera: Mapping[str, float]
    stills_per_second: float
    measured_cameras: int
    limit: int
    keep: timedelta
    largest_partition_share: float
    partitions: int
    disk: DiskUsage | None
    used_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """Return the bytes a second of all cameras."""
        return sum(self.bytes_per_second_by_camera.values())

    @property
    def still_bytes(self) -> int:
        """Return the mean bytes of a still."""
        return round(self.bytes_per_second / self.stills_per_second)

    @property
    def duration_within_limit(self) -> timedelta:
        """Return how long windows stay until the limit removes them; 10 years at most."""
        fullest_rate = self.largest_partition_share * self.bytes_per_second
        seconds = self.limit / self.partitions / fullest_rate
        return min(timedelta(seconds=seconds), timedelta(days=3650))

    @property
    def reach(self) -> timedelta:
        """Return how far back the log reaches."""
        return min(self.keep, self.duration_within_limit)

    @property
    def growth(self) -> int:
        """Return the bytes that the log may still take of its disk."""
        final_bytes = min(self.limit, ceil(self.bytes_per_second * self.keep.total_seconds()))
        return max(0, final_bytes - self.used_bytes)

    @property
    def has_disk_room(self) -> bool:
        """Return whether the disk has room for all that the log may still take."""
        return self.disk is None or self.growth <= self.disk.free_bytes

    def limit_for(self, span: timedelta) -> int:
        """Return the least limit with which windows last for a span."""
        fullest_rate = self.largest_partition_share * self.bytes_per_second
        return ceil(fullest_rate * span.total_seconds()) * self.partitions


def log_limit(log: LogSettings, data: Path) -> int:
    """Return how many bytes of windows a log keeps in all; raise CommandFailed without a disk."""
    if log.limit is not None:
        return log.limit
    if log.kafka is not None:
        return log.kafka.partitions * MIN_WINDOW_BYTES
    return max(MIN_WINDOW_BYTES, DiskUsage.measure(data).total_bytes // DISK_FRACTION)


def log_retention(log: LogSettings, data: Path) -> tuple[TopicRetention, ...]:
    """Return how much of each topic is kept; on Kafka, of each of its partitions."""
    partitions = log.kafka.partitions if log.kafka is not None else 1
    return topic_retention(log_limit(log, data) // partitions, log.keep)


def measure_log_space(settings: LongwatchSettings) -> LogSpace:
    """Return what the log keeps under these settings; raise CommandFailed."""
    log, cameras, file = settings.log, settings.cameras, settings.data / LOG_FILE
    is_file = log.kafka is None
    sizes = median_window_bytes(file) if is_file else {}
    rates = {name: _bytes_per_second(camera, sizes.get(name)) for name, camera in cameras.items()}
    partitions = 1 if log.kafka is None else log.kafka.partitions
    return LogSpace(
        bytes_per_second_by_camera=rates,
        stills_per_second=sum(camera.fps for camera in cameras.values()),
        measured_cameras=len(sizes.keys() & cameras.keys()),
        limit=log_limit(log, settings.data),
        keep=log.keep,
        largest_partition_share=_largest_partition_share(rates, partitions),
        partitions=partitions,
        disk=DiskUsage.measure(settings.data) if is_file else None,
        used_bytes=_file_size(file) if is_file else 0,
    )


def format_log_space(space: LogSpace) -> str:
    """Return how far back the log reaches, for how many cameras, and why."""
    cameras = len(space.bytes_per_second_by_camera)
    wordings = {0: "estimated", cameras: "measured"}
    basis = wordings.get(space.measured_cameras, f"{space.measured_cameras} of them measured")
    return (
        f"windows: {format_span(space.reach)} of {format_camera_count(cameras)} at about"
        f" {format_bytes(space.still_bytes)} a still ({basis});"
        f" limit {format_bytes(space.limit)}, keep {format_duration(space.keep)}"
    )


def log_space_fields(space: LogSpace) -> dict[str, object]:
    """Return the same as JSON: seconds and bytes."""
    return {
        "span": round(space.reach.total_seconds()),
        "keep": round(space.keep.total_seconds()),
        "limit": space.limit,
        "still_bytes": space.still_bytes,
        "bytes_per_second": round(space.bytes_per_second),
        "measured_cameras": space.measured_cameras,
        "growth": space.growth,
        "disk": space.disk and {"total": space.disk.total_bytes, "free": space.disk.free_bytes},
    }


def format_span(span: timedelta) -> str:
    """Write a duration in hours, or in whole seconds below one hour."""
    if span >= _HOUR:
        return f"{span / _HOUR:.1f} h"
    return format_duration(timedelta(seconds=int(span.total_seconds())))


def _file_size(file: Path) -> int:
    """Return the bytes of a file; 0 if it is missing, or another user's."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _bytes_per_second(camera: CameraSettings, window: int | None) -> float:
    """Return the bytes a second of a camera with windows of this size.

    Without a size, estimate them for a picture of 4:3, the usual format with most pixels.
    """
    if window is not None:
        return window / camera.window.total_seconds()
    pixels = camera.still_side**2 * 3 / 4
    return camera.fps * STILL_BYTES * pixels / STILL_PIXELS


def _largest_partition_share(rates: Mapping[str, float], partitions: int) -> float:
    """Return the share of all bytes that goes into the fullest partition."""
    if partitions == 1:
        return 1.0
    from storage.log.kafka.log import partition_number_for_key  # noqa: PLC0415  loads Kafka's client

    partition_rates = [0.0] * partitions
    for camera, rate in rates.items():
        partition_rates[partition_number_for_key(camera, partitions)] += rate
    return max(partition_rates) / sum(partition_rates)
