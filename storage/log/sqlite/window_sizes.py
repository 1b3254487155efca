"""The sizes of the windows in a log file."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from statistics import median

from storage.records.topics import WINDOWS

_SAMPLE = 500
"""Windows of each partition that are measured."""


def median_window_bytes(file: Path) -> dict[str, int]:
    """Return the median bytes of the newest windows of each camera in a log file.

    It reads no value: SQLite stores the lengths apart. Empty if the file is missing or cannot be
    read now.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as log:
            return _median_bytes(log)
    except sqlite3.Error:
        return {}


def _median_bytes(log: sqlite3.Connection) -> dict[str, int]:
    partitions = log.execute(
        "SELECT topic FROM topics WHERE topic = ? OR topic GLOB ?", (WINDOWS, f"{WINDOWS}-*")
    ).fetchall()
    newest = "SELECT key, length(value) FROM entries WHERE topic = ? ORDER BY position DESC LIMIT ?"
    sizes = defaultdict[str, list[int]](list)
    for (partition,) in partitions:
        for camera, size in log.execute(newest, (partition, _SAMPLE)):
            sizes[camera].append(size)
    return {camera: round(median(found)) for camera, found in sizes.items()}
