"""How long windows last in the log: computed from the settings, measured where there is a log."""

import json
import os
import shutil
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.checks.log_retention import log_retention_problems, log_retention_warnings
from deploy.config.data_dir import LOG_FILE
from deploy.config.log_space import (
    DiskUsage,
    format_log_space,
    log_limit,
    log_retention,
    measure_log_space,
)
from deploy.config.settings import LongwatchSettings
from deploy.config.settings_file import SettingsFile, read_settings
from deploy.config.storage_locations import storage_locations
from deploy.errors import BadSettings
from deploy.runtime.role_builder import build_alert_role
from kit.deploy.command import Command, longwatch
from kit.storage.fixtures import small_disk
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import partition_number_for_key
from storage.log.retention import DEFAULT_RETENTION, MIN_WINDOW_BYTES
from storage.log.sqlite.log import SqliteLog
from storage.log.sqlite.window_sizes import median_window_bytes
from storage.records.topics import FINDINGS, WINDOWS

HOUR = timedelta(hours=1)
KAFKA = 'kafka: {bootstrap: ["kafka:9092"], partitions: 4}, '


def write_site(folder: Path, log: str = "", cameras: int = 8, more: str = "") -> Path:
    file = folder / "site.yaml"
    lines = [f'  c{n}: {{url: "rtsp://10.0.0.{n}/sub"{more}}}\n' for n in range(cameras)]
    file.write_text(
        f"cameras:\n{''.join(lines)}"
        "questions: {any: {ask: 'Is anything unusual happening?'}}\n"
        "memory: {horizon: 10m}\n"
        f"log: {{{log}}}\n"
    )
    return file


def site(folder: Path, log: str = "", cameras: int = 8, more: str = "") -> LongwatchSettings:
    return read_settings(write_site(folder, log, cameras, more))


def fill(data: Path, camera: str, size: int, count: int = 3) -> None:
    data.mkdir(exist_ok=True)
    with closing(SqliteLog(data / LOG_FILE, partitions=4)) as log:
        log.append(WINDOWS, camera, *(b"x" * size for _ in range(count)))
        log.append(FINDINGS, camera, b"y" * 10)


def test_windows_last_as_long_as_their_bytes_fit_the_limit(tmp_path: Path) -> None:
    space = measure_log_space(site(tmp_path, "limit: 10GB"))
    assert (space.still_bytes, space.measured_cameras) == (64_600, 0)
    assert space.bytes_per_second == pytest.approx(8 * 64_600)
    assert space.reach == space.duration_within_limit
    assert space.reach / HOUR == pytest.approx(10e9 / (8 * 64_600 * 3600))
    assert format_log_space(space) == (
        "windows: 5.4 h of 8 cameras at about 64.6 kB a still (estimated); limit 10.0 GB, keep 1d"
    )
    assert measure_log_space(site(tmp_path, "limit: 10GB, keep: 2h")).reach == 2 * HOUR
    twice = measure_log_space(site(tmp_path, "limit: 10GB", more=", fps: 2"))
    assert space.reach / twice.reach == pytest.approx(2)
    small = measure_log_space(site(tmp_path, "limit: 10GB", more=", still_side: 320"))
    assert small.reach / space.reach == pytest.approx(4)


def test_windows_that_are_there_are_measured(tmp_path: Path) -> None:
    fill(tmp_path / "data", "c0", 160_000)
    fill(tmp_path / "data", "c1", 800_000)
    fill(tmp_path / "data", "stranger", 5)
    space = measure_log_space(site(tmp_path, "limit: 10GB", cameras=2))
    assert (space.measured_cameras, space.still_bytes) == (2, 30_000)
    assert dict(space.bytes_per_second_by_camera) == {"c0": 10_000, "c1": 50_000}
    assert "(measured)" in format_log_space(space)
    assert 2_800_000 < space.used_bytes < 4_000_000
    assert space.growth == 24 * 3600 * 60_000 - space.used_bytes
    some = measure_log_space(site(tmp_path, "limit: 10GB", cameras=3))
    assert some.bytes_per_second_by_camera["c2"] == 64_600
    assert "(2 of them measured)" in format_log_space(some)


def test_only_the_newest_windows_count_and_one_that_is_short_changes_nothing(
    tmp_path: Path,
) -> None:
    fill(tmp_path, "c0", 1000, count=500)
    fill(tmp_path, "c0", 2000, count=499)
    fill(tmp_path, "c0", 10, count=1)
    assert median_window_bytes(tmp_path / LOG_FILE) == {"c0": 2000}


def test_a_file_that_cannot_be_read_is_not_measured(tmp_path: Path) -> None:
    assert median_window_bytes(tmp_path / "none.db") == {}
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "torn.db").write_bytes(os.urandom(5000))
    assert median_window_bytes(tmp_path / "torn.db") == {}


def test_without_a_limit_it_is_a_fifth_of_the_disk_and_two_gib_at_least(tmp_path: Path) -> None:
    total = shutil.disk_usage(tmp_path).total
    settings = site(tmp_path)
    assert log_limit(settings.log, tmp_path / "not" / "yet" / "made") == max(
        MIN_WINDOW_BYTES, total // 5
    )
    with small_disk(tmp_path / "disk", "16m") as disk:
        assert log_limit(settings.log, disk) == MIN_WINDOW_BYTES
    given = site(tmp_path, "limit: 20GiB")
    assert log_limit(given.log, tmp_path) == 20 * 2**30


def test_alerts_trims_the_log_as_the_settings_say(tmp_path: Path) -> None:
    settings = site(tmp_path, "limit: 3GB, keep: 2h")
    role = build_alert_role(settings, 0)
    kept = {each.topic: each for each in role.log_retention}
    assert (kept[WINDOWS].keep_bytes, kept[WINDOWS].keep_for) == (3 * 10**9, 2 * HOUR)
    assert [each for each in DEFAULT_RETENTION if each.topic != WINDOWS] == [
        each for topic, each in kept.items() if topic != WINDOWS
    ]


def test_on_kafka_each_partition_keeps_its_share(tmp_path: Path) -> None:
    place = storage_locations(site(tmp_path, KAFKA + "limit: 8GiB, keep: 2h")).log
    assert isinstance(place, KafkaConfig)
    windows = place.retention[0]
    assert (windows.keep_bytes, windows.keep_for) == (2 * 2**30, 2 * HOUR)
    usual = site(tmp_path, KAFKA)
    assert log_retention(usual.log, tmp_path) == DEFAULT_RETENTION


def test_on_kafka_the_fullest_partition_counts(tmp_path: Path) -> None:
    settings = site(tmp_path, KAFKA + "limit: 8GB", cameras=7)
    space = measure_log_space(settings)
    numbers = [partition_number_for_key(name, 4) for name in settings.cameras]
    most = max(map(numbers.count, numbers))
    assert most > 7 / 4
    assert space.duration_within_limit.total_seconds() == pytest.approx(2e9 / (most * 64_600))
    assert (space.disk, space.has_disk_room) == (None, True)
    enough = site(tmp_path, f"{KAFKA}limit: {space.limit_for(HOUR) / 1e9:.3f}GB", cameras=7)
    assert measure_log_space(enough).duration_within_limit / HOUR == pytest.approx(1, abs=0.001)


def refused(file: Path) -> list[str]:
    with pytest.raises(BadSettings) as error:
        SettingsFile.read(file, log_retention_problems)
    return str(error.value).splitlines()


def test_windows_that_go_before_the_horizon_are_refused_with_the_limit_that_fits(
    tmp_path: Path,
) -> None:
    file = write_site(tmp_path, "limit: 310MB")
    assert refused(file) == [
        f"{file}:12: log.limit: 310 MB hold windows of 8 cameras for 9m59s, less than"
        " memory.horizon (10m): set it to 311MB or more"
    ]
    assert not SettingsFile.read(
        write_site(tmp_path, "limit: 311MB"), log_retention_problems
    ).warnings()
    file = write_site(tmp_path, "keep: 9m")
    assert refused(file) == [f"{file}:12: log.keep: shorter than memory.horizon (10m): lengthen it"]


def warned(file: Path) -> list[str]:
    return SettingsFile.read(file).warnings(log_retention_warnings)


def test_less_than_an_hour_is_warned_of(tmp_path: Path) -> None:
    file = write_site(tmp_path, "limit: 1GB")
    assert warned(file) == [
        f"{file}:12: log.limit: windows are kept for 32m14s only: 1861MB would hold an hour"
    ]
    assert warned(write_site(tmp_path, "limit: 1861MB")) == []
    file = write_site(tmp_path, "limit: 2GB, keep: 30m")
    assert warned(file) == [f"{file}:12: log.keep: windows are kept for 30m only"]


def test_disk_with_less_than_the_log_may_take_is_warned_of(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "16m") as disk:
        file = write_site(disk, "limit: 2GB")
        (warning,) = warned(file)
        assert "log.limit: the log may take 2.00 GB more, the disk of " in warning
        assert warning.endswith("MB free: lower it, or free some space")
        space = measure_log_space(read_settings(file))
    roomy = replace(space, disk=DiskUsage(folder=disk, total_bytes=10**10, free_bytes=space.growth))
    assert roomy.has_disk_room
    assert replace(roomy, used_bytes=10**12).growth == 0


def test_validate_and_doctor_say_how_long_windows_are_kept(
    tmp_path: Path, command: Command
) -> None:
    file = write_site(tmp_path, "limit: 1GB")
    shown = command("validate", "-c", file)
    assert "windows: 32m14s of 8 cameras at about 64.6 kB a still" in shown.stdout
    assert shown.stderr.startswith(f"warning: {file}:12: log.limit: windows are kept for 32m14s")
    output = json.loads(command("validate", "-c", file, "--json").stdout)
    assert (output["log"]["span"], output["log"]["limit"], len(output["warnings"])) == (
        1935,
        10**9,
        1,
    )
    output = json.loads(command("doctor", "-c", file, "--json").stdout)
    assert (output["log"]["span"], len(output["warnings"])) == (1935, 1)
    assert output["log"]["disk"]["free"] > 0
    shown = command("doctor", "-c", file)
    assert "windows: 32m14s of 8 cameras" in shown.stdout
    assert "disk, for the log" in shown.stdout


@pytest.mark.parametrize("words", ["validate", "doctor"])
def test_validate_and_doctor_refuse_a_log_shorter_than_the_horizon(
    tmp_path: Path, command: Command, words: str
) -> None:
    result = command(words, "-c", write_site(tmp_path, "keep: 1m"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "log.keep: shorter than memory.horizon" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", ["run", "analyze", "alert"])
def test_nothing_starts_on_a_log_shorter_than_the_horizon(tmp_path: Path, words: str) -> None:
    said = longwatch(words, "-c", write_site(tmp_path, "limit: 10MB"))
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert "log.limit: 10.0 MB hold windows of 8 cameras for 19s" in said.stderr
