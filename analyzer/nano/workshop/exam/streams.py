"""Long streams of rendered scenes through the product itself, with its memory and rules.

`longwatch backtest` reads each video with the questions and rules of the demo. An eventful stream
has about nine events per hour; a busy one has everything but events, so every incident is false.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from analyzer.nano.workshop.exam.measures import Alarm, AlarmMatch, match_alarms
from analyzer.nano.workshop.renderer.events import EventKind
from analyzer.nano.workshop.renderer.sensor import Light
from analyzer.nano.workshop.scenes import random_scene
from analyzer.nano.workshop.video import write_video

HOUR, RATE = 3600, 0.04
SETTINGS = Path(__file__).parents[4] / "deploy" / "demo.yaml"
START = datetime(2026, 1, 1, tzinfo=UTC)
_PLACEHOLDERS = {
    "camera": "street",
    "url": "rtsp://camera.example/street",
    "hook": "https://receiver.example/hook",
    "secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """The result of one stream; `is_busy` has no events."""

    seed: int
    seconds: int
    is_busy: bool
    matched: AlarmMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """How the incidents of one kind, or of all, fared; rates are per camera-hour."""

    name: str
    expected: int
    recall: float | None
    delay_s: float | None
    false_per_eventful_hour: float | None
    false_per_hour: float | None
    """In busy streams without events."""


def examine_stream(
    seed: int, seconds: int, *, is_busy: bool, model: str, settings: Path, light: Light | None
) -> StreamResult:
    """Run a backtest on a scene, and match its incidents with the events."""
    scene = random_scene(seed, seconds, rate=0.0 if is_busy else RATE, light=light)
    with TemporaryDirectory(prefix="longwatch-hours-") as folder:
        video, site = Path(folder) / "stream.mp4", Path(folder) / "site.yaml"
        text = settings_text(settings)
        site.write_text(text)
        write_video(scene, video, seconds=seconds, fps=1, width=384, height=256)
        alarms = alarms_of(_backtest(site, video, model), kinds_of(text))
    events = [
        replace(event, end=min(event.end, float(seconds)))
        for event in scene.events
        if event.start < seconds
    ]
    return StreamResult(
        seed=seed, seconds=seconds, is_busy=is_busy, matched=match_alarms(events, alarms)
    )


def settings_text(settings: Path) -> str:
    """Return the text of a settings file as the demo ships it, with one camera filled in."""
    return settings.read_text().format(**_PLACEHOLDERS)


def kinds_of(settings: str) -> dict[str, EventKind]:
    """Return the kind that each rule is about: its question is called so."""
    return {rule["name"]: EventKind(rule["when"]) for rule in yaml.safe_load(settings)["rules"]}


def alarms_of(report: str, kinds: dict[str, EventKind]) -> list[Alarm]:
    """Return the incidents in the JSON of a backtest."""
    return [
        Alarm(
            kind=kinds[incident["rule"]],
            opened=_second(incident["opened_at"]),
            closed=_second(incident["closed_at"]) if incident["closed_at"] else None,
        )
        for incident in json.loads(report)["incidents"]
    ]


def rows_of(streams: Sequence[StreamResult]) -> tuple[StreamRow, ...]:
    """Return the figures of all incidents, then of each kind's."""
    return _row("all", tuple(EventKind), streams), *(
        _row(kind, (kind,), streams) for kind in EventKind
    )


def _row(name: str, kinds: Sequence[EventKind], streams: Sequence[StreamResult]) -> StreamRow:
    matched_events, missed, delays = 0, 0, list[float]()
    for matched in (stream.matched for stream in streams):
        missed += sum(event.kind in kinds for event in matched.missed)
        for event, delay in zip(matched.told, matched.delays, strict=True):
            matched_events += event.kind in kinds
            delays += [delay] if event.kind in kinds and delay is not None else []
    expected = matched_events + missed
    return StreamRow(
        name=name,
        expected=expected,
        recall=matched_events / expected if expected else None,
        delay_s=median(delays) if delays else None,
        false_per_eventful_hour=_false_rate(kinds, [s for s in streams if not s.is_busy]),
        false_per_hour=_false_rate(kinds, [s for s in streams if s.is_busy]),
    )


def _false_rate(kinds: Sequence[EventKind], streams: Sequence[StreamResult]) -> float | None:
    hours = sum(stream.seconds for stream in streams) / HOUR
    false = sum(alarm.kind in kinds for stream in streams for alarm in stream.matched.false)
    return false / hours if hours else None


def _backtest(site: Path, video: Path, model: str) -> str:
    """Return the output of `longwatch backtest`; raises RuntimeError with its errors."""
    words = ["backtest", "-c", str(site), str(video), "--start", START.isoformat(), "--json"]
    done = subprocess.run(  # noqa: S603  our own command line
        [sys.executable, "-m", "deploy", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LONGWATCH_MODEL__NAME": model},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout


def _second(at: str) -> float:
    return (datetime.fromisoformat(at) - START).total_seconds()
