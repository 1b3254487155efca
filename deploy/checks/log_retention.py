"""Check that the log keeps windows for long enough, and has room on its disk."""

from collections.abc import Iterator
from datetime import timedelta

from deploy.config.log_space import format_span, measure_log_space
from deploy.config.problems import SettingKey, SettingProblem
from deploy.config.settings import LongwatchSettings
from deploy.format_bytes import format_bytes, format_bytes_setting, format_camera_count
from storage.duration import format_duration

SHORT_RETENTION = timedelta(hours=1)
"""A warning says that windows are kept for less than this."""

_KEEP: SettingKey = ("log", "keep")
_LIMIT: SettingKey = ("log", "limit")


def log_retention_problems(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield that windows are kept for less than the memory's horizon.

    A restarted analyzer rebuilds its memory from them, and evidence is copied out of them.
    """
    horizon = settings.memory.horizon
    if settings.log.keep < horizon:
        message = f"shorter than memory.horizon ({format_duration(horizon)}): lengthen it"
        yield SettingProblem(key=_KEEP, message=message)
    space = measure_log_space(settings)
    if space.duration_within_limit < horizon:
        cameras = format_camera_count(len(settings.cameras))
        message = (
            f"{format_bytes(space.limit)} hold windows of {cameras} for"
            f" {format_span(space.duration_within_limit)}, less than memory.horizon"
            f" ({format_duration(horizon)}):"
            f" set it to {format_bytes_setting(space.limit_for(horizon))} or more"
        )
        yield SettingProblem(key=_LIMIT, message=message)


def log_retention_warnings(settings: LongwatchSettings) -> Iterator[SettingProblem]:
    """Yield that windows are kept for less than an hour, or may fill the disk."""
    space = measure_log_space(settings)
    if space.keep < SHORT_RETENTION:
        message = f"windows are kept for {format_span(space.keep)} only"
        yield SettingProblem(key=_KEEP, message=message)
    if space.duration_within_limit < SHORT_RETENTION:
        message = (
            f"windows are kept for {format_span(space.duration_within_limit)} only:"
            f" {format_bytes_setting(space.limit_for(SHORT_RETENTION))} would hold an hour"
        )
        yield SettingProblem(key=_LIMIT, message=message)
    if space.disk is not None and not space.has_disk_room:
        message = (
            f"the log may take {format_bytes(space.growth)} more, the disk of {space.disk.folder}"
            f" has {format_bytes(space.disk.free_bytes)} free: lower it, or free some space"
        )
        yield SettingProblem(key=_LIMIT, message=message)
