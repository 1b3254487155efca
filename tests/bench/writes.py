"""What a window costs the disk: fdatasync and bytes by strace, and windows a second of one log.

First all roles of a machine as processes (cameras, an analyzer whose model costs nothing, alerts
without a receiver), with windows of 16 stills of 50 kB: system calls per window, by file, and
those of a second in which nothing comes. Then how many windows a second one SQLite log takes,
each with its claim, finding, the analyzer's claim and position, from several processes; beside a
bare loop of sqlite3 with the same rows and commits.

    python tests/bench/writes.py [--cameras 2] [--windows 24] [--json]
"""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

# Before this folder, in which a file would stand for the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from kit.deploy.disk_writes import WriteCounts, encoded_size, measure_rate, trace_system
from kit.storage.fixtures import a_finding
from storage.log.sqlite.file import _LARGE_WAL
from storage.records.wire import encode_finding
from storage.sqlite_connection import PRAGMAS

PACE, IDLE = 0.5, 10.0
"""Seconds between two windows of a camera, and seconds without any."""
MOST_SYNCS, MOST_BYTES, LEAST_RATE = 4.0, 2.2, 80.0
CLAIM = b"c" * 150


def sqlite_rate(folder: Path, count: int) -> float:
    """Return the windows a second of a loop in one process: two commits for each."""
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in (*PRAGMAS, *_LARGE_WAL):
        db.execute(pragma)
    db.execute("CREATE TABLE entries (topic TEXT, position INTEGER, key TEXT, at INTEGER,"
               " value BLOB, UNIQUE (topic, position))")  # fmt: skip
    db.execute("CREATE TABLE readers (topic TEXT PRIMARY KEY, position INTEGER)")
    window, finding = os.urandom(encoded_size()), encode_finding(a_finding())

    def insert(topic: str, offset: int, value: bytes) -> None:
        row = (topic, offset, "dock", time.time_ns(), value)
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)

    began = time.perf_counter()
    for n in range(count):
        db.execute("BEGIN IMMEDIATE")
        insert("windows", n, window)
        insert("coverage", 2 * n, CLAIM)
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        insert("findings", n, finding)
        insert("coverage", 2 * n + 1, CLAIM)
        db.execute("REPLACE INTO readers VALUES ('windows', ?)", (n + 1,))
        db.execute("COMMIT")
    seconds = time.perf_counter() - began
    db.close()
    return count / seconds


def per_window(written: WriteCounts, windows: int) -> dict[str, object]:
    """Return syncs per window and bytes per byte of a window, in all and by file."""
    size = windows * encoded_size()
    return {
        "syncs": round(sum(written.syncs.values()) / windows, 2),
        "bytes": round(sum(written.bytes.values()) / size, 3),
        "syncs_by_file": {name: round(n / windows, 2) for name, n in written.syncs.items()},
        "bytes_by_file": {name: round(n / size, 3) for name, n in written.bytes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--windows", type=int, default=24, help="of each camera")
    parser.add_argument("--rate-windows", type=int, default=240, help="in all")
    parser.add_argument("--skip-system", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, object] = {"window_bytes": encoded_size()}
    with tempfile.TemporaryDirectory(prefix="longwatch-bench-", dir=Path.cwd()) as folder:
        here = Path(folder)
        if not options.skip_system:
            (here / "system").mkdir()
            busy, idle = trace_system(here / "system", options.cameras, options.windows, PACE, IDLE)
            figures["system"] = per_window(busy, options.cameras * options.windows)
            figures["idle_syncs_per_minute"] = sum(idle.syncs.values()) * 60 / IDLE
        (here / "rate").mkdir()
        ours, largest = measure_rate(here / "rate", 2, 4, options.rate_windows // 8)
        bare = sqlite_rate(here, options.rate_windows)
        figures |= {"rate": round(ours, 1), "bare": round(bare, 1), "largest_wal": largest}
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:22} {value}")
    print(f"wanted: syncs <= {MOST_SYNCS}, bytes <= {MOST_BYTES}, rate >= {LEAST_RATE}")


if __name__ == "__main__":
    main()
