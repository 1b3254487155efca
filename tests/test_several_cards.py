"""One analyzer process per card on one machine; all share the cameras."""

import logging
import signal
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from analyzer.device import devices_of
from analyzer.errors import ModelUnusable
from deploy.config.data_dir import LOG_FILE
from deploy.config.settings_file import read_settings
from deploy.errors import BadSettings
from deploy.runtime.role_builder import build_analyze_roles
from kit.deploy.command import run_longwatch
from kit.model.small_model import window
from kit.waiting import wait_for
from storage.log.sqlite.log import PARTITIONS, SqliteLog
from storage.records.topics import FINDINGS, WINDOWS
from storage.records.wire import encode_window

SITE = """\
cameras:
  c0: {url: "rtsp://10.0.0.1/sub"}
  c1: {url: "rtsp://10.0.0.2/sub"}
  c2: {url: "rtsp://10.0.0.3/sub"}
  c3: {url: "rtsp://10.0.0.4/sub"}
questions: {any: {ask: "Is anything unusual happening?"}}
"""


def write_site(folder: Path, model: str) -> Path:
    file = folder / "site.yaml"
    file.write_text(f"{SITE}model: {model}\ndata: {folder / 'data'}\n")
    return file


@pytest.mark.parametrize(
    ("device", "roles"),
    [
        ("auto", {"analyzer": "auto"}),
        ("cpu", {"analyzer": "cpu"}),
        ("cuda:1", {"analyzer": "cuda:1"}),
        ("[cuda:1]", {"analyzer": "cuda:1"}),
        ("[cuda:0, cuda:2]", {"analyzer-0": "cuda:0", "analyzer-1": "cuda:2"}),
    ],
)
def test_each_card_has_an_analyzer_and_one_alone_keeps_its_name(
    tmp_path: Path, device: str, roles: dict[str, str]
) -> None:
    settings = read_settings(write_site(tmp_path, f"{{device: {device}}}"))
    made = build_analyze_roles(settings, logging.INFO)
    assert {role.name: role.device for role in made} == roles


@pytest.mark.parametrize("device", ["gpu", "[]", "[cpu]", "[cuda]", "cuda:x", "3", "[3]"])
def test_what_is_no_device_is_refused_with_what_is_one(tmp_path: Path, device: str) -> None:
    file = write_site(tmp_path, f"{{device: {device}}}")
    with pytest.raises(BadSettings, match=r"device: .*write auto, cpu, cuda") as caught:
        read_settings(file)
    assert "\n" not in str(caught.value)


def test_a_card_is_named_once(tmp_path: Path) -> None:
    file = write_site(tmp_path, "{device: [cuda:0, cuda:0]}")
    with pytest.raises(BadSettings, match="names a card twice"):
        read_settings(file)


def test_all_cards_of_a_machine_that_has_none_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"there is no card here: set model\.device to cpu"):
        devices_of("all")
    assert [str(place) for place in devices_of("cpu")] == ["cpu"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_services_share_one_file_and_one_takes_over(tmp_path: Path, checkpoint: Path) -> None:
    site = write_site(tmp_path, f"{{name: {checkpoint}, device: cpu}}")
    (tmp_path / "data").mkdir()
    errors = [tmp_path / "first", tmp_path / "second"]
    with ExitStack() as stack:
        log = stack.enter_context(closing(SqliteLog(tmp_path / "data" / LOG_FILE, PARTITIONS)))
        first, second = (
            stack.enter_context(run_longwatch("analyze", "-c", site, errors=each))
            for each in errors
        )
        wait_for(lambda: owned(log, 2) == [6, 6], 120)
        for camera in ("c0", "c1", "c2", "c3"):
            log.append(WINDOWS, camera, encode_window(window(camera=camera)))
        wait_for(lambda: answered(log) == 4, 60)
        first.send_signal(signal.SIGTERM)
        wait_for(lambda: owned(log, 1) == [12], 60)
        for camera in ("c0", "c1", "c2", "c3"):
            log.append(WINDOWS, camera, encode_window(window(1, camera=camera)))
        wait_for(lambda: answered(log) == 8, 60)
        second.send_signal(signal.SIGTERM)
        wait_for(lambda: second.poll() is not None, 30)
    assert (first.returncode, second.returncode) == (0, 0), errors[1].read_text()
    assert all("process crashed" not in each.read_text() for each in errors)


def owned(log: SqliteLog, members: int) -> list[int]:
    """Return how many parts each of so many members owns; nothing while there are others."""
    with log.transaction() as db:
        rows = db.execute("SELECT count(*) FROM owners WHERE member != '' GROUP BY member")
        found = [count for (count,) in rows]
    return found if len(found) == members else []


def answered(log: SqliteLog) -> int:
    return sum(log.end_offset(partition) for partition in log.partitions(FINDINGS))
