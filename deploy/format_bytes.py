"""Sizes and counts as text."""

from math import ceil


def format_bytes(size: int) -> str:
    """Write bytes with three digits: `13.2 MB`."""
    for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            number = size / scale
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"
    return f"{size} B"


def format_bytes_setting(size: int) -> str:
    """Write bytes, rounded up, as a setting: `14MB`, `140GB`."""
    return f"{ceil(size / 10**9)}GB" if size > 10**11 else f"{ceil(size / 10**6)}MB"


def format_camera_count(cameras: int) -> str:
    """Write a number of cameras."""
    return "1 camera" if cameras == 1 else f"{cameras} cameras"
