"""Whether the log keeps windows for long enough, and has room on its disk."""

from collections.abc import Iterator
from datetime import timedelta

from deploy.log_space import log_space, span_text
from deploy.settings import Key, Settings
from deploy.units import cameras_text, size_setting, size_text
from storage.duration import format_duration

SHORT = timedelta(hours=1)
"""Windows that are kept for less than this are warned of."""

_KEEP: Key = ("log", "keep")
_LIMIT: Key = ("log", "limit")


def log_problems(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield that windows are kept for less than the memory's horizon.

    A restarted analyzer reads its memory again from them, and evidence is copied out of them.
    """
    horizon = settings.memory.horizon
    if settings.log.keep < horizon:
        told = f"shorter than memory.horizon ({format_duration(horizon)}): lengthen it"
        yield _KEEP, told
    space = log_space(settings)
    if space.lasting < horizon:
        yield (
            _LIMIT,
            f"{size_text(space.limit)} hold windows of {cameras_text(len(space.rates))} for"
            f" {span_text(space.lasting)}, less than memory.horizon ({format_duration(horizon)}):"
            f" set it to {size_setting(space.limit_for(horizon))} or more",
        )


def log_warnings(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield that windows are kept for less than an hour, or may fill the disk."""
    space = log_space(settings)
    if space.keep < SHORT:
        yield _KEEP, f"windows are kept for {span_text(space.keep)} only"
    if space.lasting < SHORT:
        yield (
            _LIMIT,
            f"windows are kept for {span_text(space.lasting)} only:"
            f" {size_setting(space.limit_for(SHORT))} would hold an hour",
        )
    if space.disk is not None and not space.fits_disk:
        yield (
            _LIMIT,
            f"the log may take {size_text(space.growth)} more, the disk of {space.disk.folder}"
            f" has {size_text(space.disk.free)} free: lower it, or free some space",
        )
