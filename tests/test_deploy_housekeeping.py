"""The log is kept within its bounds, on time, and a full disk does not end that."""

from datetime import timedelta
from pathlib import Path

from storage_fixtures import fill, small_disk, wait_for

from deploy.housekeeping import Retention, housekeeping, trim
from storage.log import FINDINGS, WINDOWS
from storage.memory_log import MemoryLog
from storage.sqlite_log import SqliteLog

SMALL = Retention(topic=WINDOWS, keep_bytes=10, keep_for=timedelta(days=1))


def test_log_is_trimmed_again_and_again() -> None:
    log = MemoryLog()
    log.append(FINDINGS, "dock", b"x" * 100)
    with housekeeping(log, [SMALL], every=timedelta(milliseconds=50)):
        for last in (2, 5):
            log.append(WINDOWS, "dock", *[b"0123456789"] * 3)
            wait_for(lambda last=last: log.oldest(WINDOWS) == last)  # type: ignore[misc]
    assert log.oldest(FINDINGS) == 0


def test_full_disk_leaves_the_other_topics_to_be_trimmed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as folder:
        log = SqliteLog(folder / "log.db")
        log.append(WINDOWS, "dock", *[b"0123456789"] * 3)
        ballast = fill(folder)
        trim(log, [SMALL, SMALL])
        assert log.oldest(WINDOWS) == 0
        ballast.unlink()
        trim(log, [SMALL])
        assert log.oldest(WINDOWS) == 2
        log.close()
