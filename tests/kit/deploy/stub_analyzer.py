"""An analyzer whose model costs nothing: it answers one question about every window with no."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from multiprocessing.synchronize import Event

from analyzer.kv.budget import MemoryPlan
from analyzer.questions.answers import WindowAnswers
from analyzer.worker import AnalyzerWorker
from kit.storage.fixtures import a_finding
from storage.log.log import Log
from storage.records.records import Finding, Window


class NegativeWatcher:
    """Stands for the model: reads every window and answers one question with no."""

    can_decode_ahead = False

    def __init__(self) -> None:
        self.plan = MemoryPlan()
        self.cameras = frozenset[str]()

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        return [WindowAnswers(window=each, findings=(_negative_finding(each),)) for each in windows]

    def restore(self, windows: Sequence[Window]) -> list[None]:
        return [None] * len(windows)

    def restore_finding(self, finding: Finding) -> None:
        """Remember nothing."""

    def forget(self, camera: str) -> None:
        """Remember nothing."""

    def forget_after(self, instant: datetime) -> None:
        """Remember nothing."""


def _negative_finding(window: Window) -> Finding:
    return replace(
        a_finding(score=0.1),
        window_id=window.id,
        camera=window.camera,
        start=window.start,
        end=window.end,
        since=window.start,
    )


def run(log: Log, ready: Event, stop: Event) -> None:
    """Analyze until `stop`."""
    worker = AnalyzerWorker(log, NegativeWatcher(), lambda _: None)  # type: ignore[arg-type]
    worker.rebalance()
    ready.set()
    worker.run(stop)  # type: ignore[arg-type]
    log.close()
