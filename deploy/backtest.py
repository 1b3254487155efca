"""Run a recorded video through the path of a live camera, and say what would have fired."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alerts.rules import looks_at, sample_of
from alerts.worker import AlertsWorker
from analyzer.answers import WindowAnswers
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
from ingest.file_coverage import FileCoverage
from ingest.video_file import FrameRate
from ingest.video_windows import VideoWindows, windows_of_file
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.instants import ClockReading
from storage.log import FINDINGS
from storage.memory_log import MemoryLog
from storage.records import Finding, Incident, IncidentState, Window
from storage.wire import encode_finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """An incident that would have been opened, and the highest score in its time."""

    incident: Incident
    peak_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """What came of a video; it took `elapsed` seconds.

    `unanswered` counts the questions that were due and got no answer. `framerate` is what a video
    without timestamps was read at; `notes` say what of the file was not read, in words.
    """

    camera: str
    windows: int
    findings: int
    unanswered: int
    fired: tuple[Fired, ...]
    coverage: FileCoverage
    framerate: FrameRate | None
    notes: tuple[str, ...]
    elapsed: float

    @property
    def speed(self) -> float:
        """How many times faster than real time it was."""
        return self.coverage.looked_at / self.elapsed


def backtest(
    settings: Settings,
    camera: str,
    video: Path,
    start: datetime,
    progress: Callable[[float], None],
    *,
    framerate: float | None = None,
) -> Backtest:
    """Watch a video as if a camera had sent it from `start` on; nothing is delivered.

    `framerate` is that of a raw stream, which has no timestamps. `progress` is told how much of
    the video is done, from 0 to 1. Raises Failed and BadVideo.
    """
    film = windows_of_file(camera_of(camera, settings.cameras[camera]), video, start, framerate)
    watcher = _watcher(settings, camera)
    began, windows, unanswered, done = time.monotonic(), 0, 0, _Done(progress)
    findings: list[Finding] = []
    with _judge(settings) as judge:
        for answers in _answers(watcher, film, done):
            windows, unanswered = windows + 1, unanswered + len(answers.unanswered)
            for finding in answers.findings:
                findings.append(finding)
                judge.hear(finding)
        fired = tuple(_fired(incident, settings, findings) for incident in judge.incidents())
    done.end()
    return Backtest(
        camera=camera,
        windows=windows,
        findings=len(findings),
        unanswered=unanswered,
        fired=fired,
        coverage=film.coverage,
        framerate=film.framerate,
        notes=tuple(film.notes),
        elapsed=time.monotonic() - began,
    )


class _Done:
    """How much is done: reading a video is half of it, and answering the other half."""

    _TOLD = 0.002

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell = tell
        self._read, self._answered, self._told = 0.0, 0.0, 0.0

    def read(self, share: float) -> None:
        """Take how much of the video is read, from 0 to 1."""
        self._read = share
        self._moved()

    def answered(self, share: float) -> None:
        """Take how much of the video is answered, from 0 to 1."""
        self._answered = share
        self._moved()

    def end(self) -> None:
        """Tell that all is done."""
        self._tell(1.0)

    def _moved(self) -> None:
        done = (self._read + self._answered) / 2
        if done - self._told >= self._TOLD:
            self._told = done
            self._tell(done)


def _answers(watcher: Watcher, film: VideoWindows, done: _Done) -> Iterator[WindowAnswers]:
    """Yield what is answered to each window; at the last one all is asked, due or not."""
    step, last = list[tuple[Window, float]](), list[tuple[Window, float]]()
    for window in film.read(done.read):
        step, last = [*step, *last], [(window, film.share)]
        if len(step) == AT_ONCE:
            yield from _watch(watcher, step, done)
            step = []
    yield from _watch(watcher, step, done)
    for window, _ in last:
        watcher.answers.restart(window.camera)
    yield from _watch(watcher, last, done)


def _watch(
    watcher: Watcher, step: Sequence[tuple[Window, float]], done: _Done
) -> Iterator[WindowAnswers]:
    told = watcher.step_all([window for window, _ in step])
    for answers, (_, share) in zip(told, step, strict=True):
        if answers.failure is not None:
            raise answers.failure
        yield answers
        done.answered(share)


_LAST = ClockReading(wall=datetime(9990, 1, 1, tzinfo=UTC), monotonic=0.0)
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
