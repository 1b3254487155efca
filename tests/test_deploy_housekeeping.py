"""The log is kept within its bounds, on time, and a full disk does not end that."""

from datetime import timedelta
from pathlib import Path

from deploy.runtime.housekeeping import housekeeping, trim_topics
from kit.storage.fixtures import fill_disk, small_disk
from kit.waiting import wait_for
from storage.log.memory_log import MemoryLog
from storage.log.retention import TopicRetention
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import FINDINGS, WINDOWS

SMALL = TopicRetention(topic=WINDOWS, keep_bytes=10, keep_for=timedelta(days=1))


def test_log_is_trimmed_again_and_again() -> None:
    log = MemoryLog()
    log.append(FINDINGS, "dock", b"x" * 100)
    with housekeeping(log, [SMALL], every=timedelta(milliseconds=50)):
        for last in (2, 5):
            log.append(WINDOWS, "dock", *[b"0123456789"] * 3)
            wait_for(lambda last=last: log.start_offset(WINDOWS) == last)  # type: ignore[misc]
    assert log.start_offset(FINDINGS) == 0


def test_full_disk_leaves_the_other_topics_to_be_trimmed(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as folder:
        log = SqliteLog(folder / "log.db")
        log.append(WINDOWS, "dock", *[b"0123456789"] * 3)
        ballast = fill_disk(folder)
        trim_topics(log, [SMALL, SMALL])
        assert log.start_offset(WINDOWS) == 0
        ballast.unlink()
        trim_topics(log, [SMALL])
        assert log.start_offset(WINDOWS) == 2
        log.close()
