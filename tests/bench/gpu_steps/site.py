"""Cameras under a Watcher, whose stream time runs on window by window.

The one place that knows how the product is called; each step goes through it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Self

import torch
from gpu_steps.bench import Bench, Figures, LastCall
from gpu_steps.footage import Jpeg
from replayed import Replayed
from torch import Tensor

from analyzer.agenda import Agenda
from analyzer.calibration import Calibration
from analyzer.memory import Memory
from analyzer.plan import AT_ONCE, Ledger, MemoryPlan, WindowShape, largest_budget
from analyzer.questions import Question
from analyzer.videoxl2.speaker import Speaker
from analyzer.watcher import Watcher
from storage.records import Clock, ClockSource, Finding, Still, Window

STILLS = 16
LENGTH = timedelta(seconds=STILLS)
SHAPE = WindowShape(stills=STILLS, length=LENGTH)
DAY = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USUAL = MemoryPlan()
SUBJECTS = (
    "smoke or fire",
    "a person on the ground",
    "a vehicle that stands still",
    "a crowd",
    "a fight",
    "an open gate",
    "water on the floor",
    "a bag left alone",
    "somebody who runs",
    "anything unusual",
)
QUESTIONS = tuple(
    Question(
        name=f"q{number}",
        ask=f"Is there {subject} anywhere in the picture right now?",
        cameras=frozenset(),
        every=LENGTH,
        look_back=None,
    )
    for number, subject in enumerate(SUBJECTS)
)
CLOCK = Clock(source=ClockSource.RECEIVED, offset=0.0)


def empty(_number: int) -> bytes:
    """Return a still that nobody will look at."""
    return b""


def plan_for(windows: int, recent: int, **changes: Any) -> MemoryPlan:
    """Return a plan that remembers so many windows, the last `recent` of them in full."""
    horizon = windows * LENGTH
    named = {"horizon": horizon, "focus_horizon": horizon, "recent": recent, "focus": 0}
    return MemoryPlan(**{**named, "epoch": horizon + timedelta(hours=4), **changes})


class Fixed(Calibration):
    """Says yes to every answer, or no; a second look is taken where a yes begins."""

    yes = False

    def probability(self, key: tuple[str, str, str], margin: float) -> float:
        return float(self.yes)


class Site:
    """Cameras with one watcher; every camera begins at the start of an epoch of its own.

    Where `tokens` are given they are what every window shows, and no still is looked at.
    """

    def __init__(
        self,
        speaker: Speaker,
        plan: MemoryPlan = USUAL,
        *,
        jpeg: Jpeg = empty,
        tokens: Sequence[Tensor] = (),
        lanes: int = 1,
        questions: Sequence[Question] = (),
    ) -> None:
        self.speaker, self.jpeg = speaker, jpeg
        self.budget = largest_budget(plan, speaker.blank, [SHAPE])
        kind = Replayed if tokens else Watcher
        self.watcher = kind(speaker, questions, plan, self.budget)
        if isinstance(self.watcher, Replayed):
            self.watcher.tokens = tokens
        self.cameras = [f"c{lane}" for lane in range(lanes)]
        self._stills = 0
        self._next = dict.fromkeys(self.cameras, DAY)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for camera in self.cameras:
            self.watcher.forget(camera)

    def _begin(self) -> None:
        """Let each camera begin where timestamps start over, so that none does so later."""
        epoch = self.watcher.plan.epoch
        for batch in self.batches():
            self.rehearse(batch)
        for camera in self.cameras:
            origin = self.memory(camera).origin
            assert origin is not None
            self._next[camera] = origin + epoch
            self.watcher.forget(camera)

    def window(self, camera: str) -> Window:
        """Return the next window of a camera."""
        start = self._next[camera]
        self._next[camera] = start + LENGTH
        stills = tuple(self._still(start + timedelta(seconds=s)) for s in range(STILLS))
        return Window(camera=camera, stills=stills, clock=CLOCK, after_gap=False)

    def _still(self, at: datetime) -> Still:
        self._stills += 1
        return Still(at=at, jpeg=self.jpeg(self._stills), width=1, height=1)

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask these from now on."""
        self.watcher.agenda = Agenda(questions)

    def memory(self, camera: str = "c0") -> Memory:
        return self.watcher.memory_of(camera)

    def batches(self, windows: int = 1) -> Iterator[list[Window]]:
        """Yield the next windows of all cameras, as the analyzer takes them."""
        for _ in range(windows):
            cameras = iter(self.cameras)
            while batch := [self.window(camera) for camera in islice(cameras, AT_ONCE)]:
                yield batch

    def step(self, batch: Sequence[Window]) -> list[Finding]:
        """Remember and answer, which is what the analyzer does with a batch."""
        return list(self.watcher.step_all(batch))

    def round(self, rounds: Sequence[Sequence[Window]]) -> list[Finding]:
        """Take batches in turn, each decoded ahead where the speaker can."""
        found = list[Finding]()
        for batch, ahead in zip(rounds, [*rounds[1:], ()], strict=True):
            self._prepare(ahead)
            found += self.step(batch)
        return found

    def fill(self, windows: int) -> None:
        """Remember so many windows of every camera."""
        for batch in self.batches(windows):
            self.step(batch)

    @property
    def rehearses_together(self) -> bool:
        return hasattr(self.watcher, "rehearse_all")

    def rehearse(self, windows: Sequence[Window]) -> None:
        """Remember windows without answering, together where the watcher can."""
        if self.rehearses_together:
            self.watcher.rehearse_all(windows)
            return
        for window in windows:
            self.watcher.rehearse(window)

    def question(self) -> LastCall:
        """Take one more step, and return its last pass of questions."""
        last = LastCall()
        with last.of(self.speaker, "ask"):
            for batch in self.batches():
                self.step(batch)
        return last

    def _prepare(self, windows: Sequence[Window]) -> None:
        prepare = getattr(self.speaker, "prepare", None)
        if prepare is not None:
            for window in windows:
                prepare([still.jpeg for still in window.stills])


def tiers(ledger: Ledger) -> Figures:
    """Return the megabytes of a memory by tier."""
    return {f"{t.name}_MB": round(getattr(ledger, t.name) / 1e6, 1) for t in fields(ledger)}


def fitting(bench: Bench, site: Site, working: int) -> Figures:
    """Return how many cameras the ledger says fit this card beside the model and a pass."""
    near = site.budget.recent + site.budget.gist
    model = sum(weight.nbytes for weight in site.speaker.model.parameters())
    found: Figures = {
        "card_MB_a_camera": round(near / 1e6, 1),
        "host_MB_a_camera": round((site.budget.focus + site.budget.tokens) / 1e6, 1),
    }
    if bench.is_cuda:
        total = bench.total_memory
        room = total - model - working
        found |= {"working_GB": round(working / 1e9, 2), "cameras_that_fit": int(room // near)}
    return found


def tokens_of(bench: Bench) -> list[Tensor]:
    """Return random visual tokens of a window (G, V, E), on the host as a speaker gives them."""
    config = bench.config
    shape = STILLS // 4, config.tokens_per_group, config.language["hidden_size"]
    return [(torch.randn(shape) * 0.02).to(bench.dtype)]
