"""Run a recorded video through the path of a live camera."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alerts.rules.rule import is_about, sample_from_finding
from alerts.worker import AlertsWorker
from analyzer.capacity.demand import plan_of
from analyzer.errors import ModelUnusable
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP, arena_plan, arena_slots, largest_budget
from analyzer.models.loading import load_model
from analyzer.questions.answers import WindowAnswers
from analyzer.watcher import Watcher
from deploy.config.assemble import build_camera, build_questions, build_rules
from deploy.config.data_dir import database_url
from deploy.config.memory_demand import window_shape
from deploy.config.settings import LongwatchSettings
from deploy.errors import CommandFailed
from ingest.files.coverage import FileCoverage
from ingest.files.video_file import FrameRate
from ingest.files.windows import VideoWindows
from storage.clock import ClockReading
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.log.memory_log import MemoryLog
from storage.records.records import Finding, Incident, IncidentState, Window
from storage.records.topics import FINDINGS
from storage.records.wire import encode_finding


@dataclass(frozen=True, slots=True, kw_only=True)
class FiredIncident:
    """An incident that the video opens, and the highest score while it was open."""

    incident: Incident
    peak_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestResult:
    """The incidents and the coverage of a video, after `elapsed` seconds.

    `unanswered` counts the due questions without an answer. `framerate` is set for a video without
    timestamps; `notes` describe parts of the file that were not read.
    """

    camera: str
    windows: int
    findings: int
    unanswered: int
    fired_incidents: tuple[FiredIncident, ...]
    coverage: FileCoverage
    framerate: FrameRate | None
    notes: tuple[str, ...]
    elapsed: float

    @property
    def speed(self) -> float:
        """Return how many times faster than real time the run was."""
        return self.coverage.watched_seconds / self.elapsed


def run_backtest(
    settings: LongwatchSettings,
    camera: str,
    video: Path,
    start: datetime,
    progress: Callable[[float], None],
    *,
    framerate: float | None = None,
) -> BacktestResult:
    """Watch a video as if a camera had sent it from `start` on; deliver nothing.

    `framerate` is that of a raw stream without timestamps. `progress` receives the finished share,
    from 0 to 1. Raises CommandFailed and BadVideo.
    """
    video_windows = VideoWindows(
        build_camera(camera, settings.cameras[camera]), video, start, framerate
    )
    watcher = _build_watcher(settings, camera)
    started_at, windows, unanswered, tracker = time.monotonic(), 0, 0, _ProgressTracker(progress)
    findings: list[Finding] = []
    with _open_evaluator(settings) as evaluator:
        for answers in _answers(watcher, video_windows, tracker):
            windows, unanswered = windows + 1, unanswered + len(answers.unanswered)
            for finding in answers.findings:
                findings.append(finding)
                evaluator.observe(finding)
        fired_incidents = tuple(
            _with_peak_score(incident, settings, findings) for incident in evaluator.incidents()
        )
    tracker.finish()
    return BacktestResult(
        camera=camera,
        windows=windows,
        findings=len(findings),
        unanswered=unanswered,
        fired_incidents=fired_incidents,
        coverage=video_windows.coverage,
        framerate=video_windows.framerate,
        notes=tuple(video_windows.notes),
        elapsed=time.monotonic() - started_at,
    )


class _ProgressTracker:
    """The finished share: reading a video is one half of it, answering the other."""

    _MIN_STEP = 0.002

    def __init__(self, callback: Callable[[float], None]) -> None:
        self._callback = callback
        self._read_share, self._answered_share, self._reported = 0.0, 0.0, 0.0

    def set_read(self, share: float) -> None:
        """Set the share of the video that is read, from 0 to 1."""
        self._read_share = share
        self._report()

    def set_answered(self, share: float) -> None:
        """Set the share of the video that is answered, from 0 to 1."""
        self._answered_share = share
        self._report()

    def finish(self) -> None:
        """Report the end."""
        self._callback(1.0)

    def _report(self) -> None:
        share = (self._read_share + self._answered_share) / 2
        if share - self._reported >= self._MIN_STEP:
            self._reported = share
            self._callback(share)


def _answers(
    watcher: Watcher, video_windows: VideoWindows, tracker: _ProgressTracker
) -> Iterator[WindowAnswers]:
    """Yield the answers to each window; ask all questions at the last one, due or not."""
    batch, last = list[tuple[Window, float]](), list[tuple[Window, float]]()
    for window in video_windows.read(tracker.set_read):
        batch, last = [*batch, *last], [(window, video_windows.progress)]
        if len(batch) == MAX_WINDOWS_PER_STEP:
            yield from _answer_windows(watcher, batch, tracker)
            batch = []
    yield from _answer_windows(watcher, batch, tracker)
    for window, _ in last:
        watcher.answerer.restart(window.camera)
    yield from _answer_windows(watcher, last, tracker)


def _answer_windows(
    watcher: Watcher, batch: Sequence[tuple[Window, float]], tracker: _ProgressTracker
) -> Iterator[WindowAnswers]:
    answered = watcher.step_all([window for window, _ in batch])
    for answers, (_, share) in zip(answered, batch, strict=True):
        if answers.failure is not None:
            raise answers.failure
        yield answers
        tracker.set_answered(share)


_END_OF_TIME = ClockReading(wall=datetime(9990, 1, 1, tzinfo=UTC), monotonic=0.0)
"""The clock of a recording: nothing in it is ahead of its time."""


class _RuleEvaluator:
    """The alerts worker with its own database, which takes one finding at a time."""

    def __init__(self, settings: LongwatchSettings, folder: Path) -> None:
        self._log = MemoryLog()
        self._store = AlertStore(open_database(database_url(folder)))
        rules = build_rules(settings)
        self._worker = AlertsWorker(
            self._log, self._store, rules, lambda _: None, clock=lambda: _END_OF_TIME
        )

    def observe(self, finding: Finding) -> None:
        self._log.append(FINDINGS, finding.camera, encode_finding(finding))
        self._worker.run_once()

    def incidents(self) -> list[Incident]:
        """Return the incidents that opened, oldest first."""
        opened = (IncidentState.OPEN, IncidentState.RESOLVED)
        return self._store.incidents(opened)[::-1]


@contextmanager
def _open_evaluator(settings: LongwatchSettings) -> Iterator[_RuleEvaluator]:
    with tempfile.TemporaryDirectory(prefix="longwatch-backtest-") as folder:
        yield _RuleEvaluator(settings, Path(folder))


def _build_watcher(settings: LongwatchSettings, camera: str) -> Watcher:
    model, plan = settings.model, plan_of(settings.memory)
    try:
        runner = load_model(model.name, model.one_device, model.dtype, model.revision)
    except ModelUnusable as error:
        raise CommandFailed(str(error)) from error
    runner.proportional_attention = plan.proportional_attention
    shapes = [window_shape(settings.cameras[camera])]
    if runner.model.device.type == "cuda":
        runner.use_arena(arena_plan(plan, runner.shape_only_chunk, shapes, arena_slots(plan, 1)))
    budget = largest_budget(plan, runner.shape_only_chunk, shapes)
    return Watcher(runner, build_questions(settings), plan, budget)


def _with_peak_score(
    incident: Incident, settings: LongwatchSettings, findings: list[Finding]
) -> FiredIncident:
    matching_rules = [
        rule
        for rule in build_rules(settings)
        if (rule.name, rule.version) == (incident.rule, incident.rule_version)
    ]
    scores = [
        finding.score
        for finding in findings
        if any(is_about(rule, sample_from_finding(finding)) for rule in matching_rules)
        and incident.first_seen_at <= finding.end <= (incident.closed_at or finding.end)
    ]
    return FiredIncident(incident=incident, peak_score=max(scores))
