"""Run a recorded video through the path of a live camera, and say what would have fired."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from alerts.rules import looks_at, sample_of
from alerts.worker import AlertsWorker
from analyzer.errors import ModelUnusable
from analyzer.plan import AT_ONCE, arena_plan, largest_budget, slots
from analyzer.site import plan_of
from analyzer.videoxl2.checkpoint import load_model
from analyzer.watcher import Watcher
from deploy.admission import shape_of
from deploy.assemble import camera_of, questions_of, rules_of
from deploy.data import database_url
from deploy.errors import Failed
from deploy.settings import Settings
from ingest.video_file import windows_of_file
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.instants import ClockReading
from storage.log import FINDINGS
from storage.memory_log import MemoryLog
from storage.records import Finding, Incident, IncidentState
from storage.wire import encode_finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """An incident that would have been opened, and the highest score in its time."""

    incident: Incident
    peak_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """What came of a video; `seconds` of it took `elapsed` seconds."""

    camera: str
    windows: int
    findings: int
    fired: tuple[Fired, ...]
    seconds: float
    elapsed: float

    @property
    def speed(self) -> float:
        """How many times faster than real time it was."""
        return self.seconds / self.elapsed


def backtest(
    settings: Settings,
    camera: str,
    video: Path,
    start: datetime,
    progress: Callable[[float], None],
) -> Backtest:
    """Watch a video as if a camera had sent it from `start` on; nothing is delivered.

    `progress` is told how many seconds of the video are done. Raises Failed and BadVideo.
    """
    watcher = _watcher(settings, camera)
    source = camera_of(camera, settings.cameras[camera])
    began, windows, end = time.monotonic(), 0, start
    findings: list[Finding] = []
    film = windows_of_file(source, video, start)
    with _judge(settings) as judge:
        for batch in iter(lambda: list(islice(film, AT_ONCE)), []):
            windows, end = windows + len(batch), batch[-1].end
            for answers in watcher.step_all(batch):
                if answers.failure is not None:
                    raise answers.failure
                for finding in answers.findings:
                    findings.append(finding)
                    judge.hear(finding)
                progress((answers.window.end - start).total_seconds())
        fired = tuple(_fired(incident, settings, findings) for incident in judge.incidents())
    return Backtest(
        camera=camera,
        windows=windows,
        findings=len(findings),
        fired=fired,
        seconds=(end - start).total_seconds(),
        elapsed=time.monotonic() - began,
    )


_LAST = ClockReading(wall=datetime(9000, 1, 1, tzinfo=UTC), monotonic=0.0)
"""A recording has its own time: nothing in it is ahead of the clock."""


class _Judge:
    """The alerts worker with a database of its own, fed by hand."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._log = MemoryLog()
        self._store = IncidentStore(open_database(database_url(folder)))
        rules = rules_of(settings)
        self._worker = AlertsWorker(
            self._log, self._store, rules, lambda _: None, clock=lambda: _LAST
        )

    def hear(self, finding: Finding) -> None:
        self._log.append(FINDINGS, finding.camera, encode_finding(finding))
        self._worker.run_once()

    def incidents(self) -> list[Incident]:
        """Return what was opened, oldest first."""
        opened = (IncidentState.OPEN, IncidentState.RESOLVED)
        return self._store.incidents(opened)[::-1]


@contextmanager
def _judge(settings: Settings) -> Iterator[_Judge]:
    with tempfile.TemporaryDirectory(prefix="longwatch-backtest-") as folder:
        yield _Judge(settings, Path(folder))


def _watcher(settings: Settings, camera: str) -> Watcher:
    model, plan = settings.model, plan_of(settings.memory)
    try:
        speaker = load_model(model.name, model.one_device, model.dtype, model.revision)
    except ModelUnusable as error:
        raise Failed(str(error)) from error
    speaker.corrected = plan.corrected
    shapes = [shape_of(settings.cameras[camera])]
    if speaker.model.device.type == "cuda":
        speaker.use_arena(arena_plan(plan, speaker.blank, shapes, slots(plan, 1)))
    budget = largest_budget(plan, speaker.blank, shapes)
    return Watcher(speaker, questions_of(settings), plan, budget)


def _fired(incident: Incident, settings: Settings, findings: list[Finding]) -> Fired:
    about = [
        rule
        for rule in rules_of(settings)
        if (rule.name, rule.version) == (incident.rule, incident.rule_version)
    ]
    scores = [
        finding.score
        for finding in findings
        if any(looks_at(rule, sample_of(finding)) for rule in about)
        and incident.first_seen_at <= finding.end <= (incident.closed_at or finding.end)
    ]
    return Fired(incident=incident, peak_score=max(scores))
