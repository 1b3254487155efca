"""The demo, from its camera to its receiver, as `make demo` runs it."""

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from analyzer import worker
from analyzer.nano.workshop.scenes import demo_scene
from deploy.config.data_dir import EVIDENCE_FOLDER, LOG_FILE
from deploy.demo import demo, monitor
from deploy.demo.demo import SETTINGS
from deploy.errors import CommandFailed
from kit.deploy.command import LONGWATCH, ROOT
from storage.log.sqlite.log import SqliteLog
from storage.records.topics import WINDOWS
from storage.records.wire import decode_window

SECONDS = 90
LASTS = (5, 6)
"""What is in hand at the end is a shorter one, if it is a group of four."""
QUESTIONS = len(yaml.safe_load(SETTINGS.read_text())["questions"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the demo, and when it came."""

    at: float
    text: str


def run_demo(data: Path, *words: str) -> tuple[dict[str, Any], list[Line]]:
    """Return the demo's last word and its lines."""
    command = [*LONGWATCH, "demo", "--seconds", str(SECONDS), "--data", str(data), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [Line(at=time.time(), text=line) for line in process.stderr]
        last = process.stdout.read()
    assert process.returncode == 0, lines
    assert last.count("\n") == 1
    return json.loads(last), lines


def test_onlooker_knows_the_reader() -> None:
    assert monitor.ANALYZER_GROUP == worker.GROUP


def test_demo_without_its_rtsp_server_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aio_rtsp_toolkit", None)
    with pytest.raises(CommandFailed, match=r"pip install 'longwatch\[demo\]'"):
        demo.run_demo(tmp_path, 20, True, Console(), threading.Event())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_demo_opens_the_scripted_incident_and_delivers_it_once(tmp_path: Path) -> None:
    last, lines = run_demo(tmp_path)
    assert last["windows"] in LASTS
    assert last["findings"] == 5 * QUESTIONS
    (incident,) = last["incidents"]
    assert incident["rule"] == "fire-seen"
    assert last["deliveries"] == {"delivered": 1}
    assert_shows_stills(tmp_path, lines)
    (fire,) = demo_scene(SECONDS, anomaly=True).events
    log = SqliteLog(tmp_path / LOG_FILE)
    entries = [entry for partition in log.partitions(WINDOWS) for entry in log.read(partition, 0)]
    windows = [decode_window(entry.value) for entry in entries]
    log.close()
    seen_at = windows[0].start + timedelta(seconds=fire.start)
    (nth,) = (n for n, window in enumerate(windows) if window.start <= seen_at <= window.end)
    opened_at = datetime.fromisoformat(incident["opened_at"])
    assert opened_at in (windows[nth].end, windows[nth + 1].end)
    for told in (r"incident fire-seen opened on", r"incidents\.firing, signature verified"):
        (line,) = (line for line in lines if re.search(told, line.text))
        assert line.at - opened_at.timestamp() <= 3.0


def assert_shows_stills(data: Path, lines: list[Line]) -> None:
    """Do what the demo's last lines say: look at the stills of its incident."""
    (where,) = (line.text for line in lines if line.text.startswith("stills of fire-seen: "))
    shown = Path(where.removeprefix("stills of fire-seen: ").strip())
    assert shown.parent == data / EVIDENCE_FOLDER
    (look,) = (line.text.split() for line in lines if "incidents show" in line.text)
    assert look == ["longwatch", "incidents", "show", shown.name[:8], "--data", str(data)]
    told = subprocess.check_output([*LONGWATCH, *look[1:], "--json"], cwd=ROOT)
    stills = {each["moment"]: each for each in json.loads(told)["stills"]}
    for moment in ("before", "at"):
        assert stills[moment]["missing"] is None
        assert Path(stills[moment]["folder"]) == shown / moment
        assert len(list((shown / moment).glob("*.jpg"))) == 16


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_quiet_scene_opens_nothing(tmp_path: Path) -> None:
    last, _ = run_demo(tmp_path, "--quiet-scene")
    assert last.pop("windows") in LASTS
    assert last == {
        "findings": 5 * QUESTIONS,
        "incidents": [],
        "deliveries": {"delivered": 0},
    }
