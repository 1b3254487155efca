"""Cameras under a Watcher, whose stream time runs on window by window.

The one place that knows how the product is called; each step goes through it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from analyzer.batching import Failure
from analyzer.kv.arena.decoder import ArenaDecoder
from analyzer.kv.arena.slots import ArenaPlan
from analyzer.kv.budget import (
    MAX_WINDOWS_PER_STEP,
    MemoryPlan,
    TierBytes,
    WindowShape,
    arena_plan,
    largest_budget,
    total_budget,
)
from analyzer.kv.host_slab import host_slab_for
from analyzer.kv.memory import Memory
from analyzer.models.runner import ModelRunner
from analyzer.questions.calibration import Calibration
from analyzer.questions.question import Question
from analyzer.questions.schedule import QuestionSchedule
from analyzer.watcher import Watcher
from bench.gpu_steps.bench import Bench, Figures, giga
from bench.gpu_steps.clocks import LastCall
from bench.gpu_steps.footage import Jpeg
from bench.token_replay import TokenReplayWatcher
from storage.records.records import ClockSource, Finding, Still, Window, WindowClock

STILLS = 16
LENGTH = timedelta(seconds=STILLS)
SHAPE = WindowShape(stills=STILLS, length=LENGTH)
LATEST = timedelta(days=1)
DAY = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USUAL = MemoryPlan()
MAX_CAMERAS = 10_000
"""More cameras than a card carries."""
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
CLOCK = WindowClock(source=ClockSource.RECEIVED, offset=0.0)


def empty(_number: int) -> bytes:
    """Return a still that nobody will look at."""
    return b""


def plan_for(windows: int, recent: int, **changes: Any) -> MemoryPlan:
    """Return a plan that remembers so many windows, the last `recent` of them in full."""
    horizon = windows * LENGTH
    named = {"horizon": horizon, "focus_horizon": horizon, "recent": recent, "focus": 0}
    return MemoryPlan(**{**named, "epoch": 2 * horizon + timedelta(hours=4), **changes})


class FixedCalibration(Calibration):
    """Says yes to every answer, or no; a second look is taken where a yes begins."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self._yes = yes

    def observe(self, key: tuple[str, str, str], margin: float) -> float:
        return float(self._yes)


class Site:
    """Cameras with one watcher; every camera begins at the start of an epoch of its own.

    Where `tokens` are given they are what every window shows, and no still is looked at. With
    `arena` the speaker reads in one, with `spare` slots for second looks, and else lays each
    memory anew.
    """

    def __init__(
        self,
        runner: ModelRunner,
        plan: MemoryPlan = USUAL,
        *,
        jpeg: Jpeg = empty,
        tokens: Sequence[Tensor] = (),
        lanes: int = 1,
        questions: Sequence[Question] = (),
        arena: bool = False,
        spare: int = 0,
    ) -> None:
        self.speaker, self.jpeg = runner, jpeg
        self.budget = largest_budget(plan, runner.shape_only_chunk, [SHAPE])
        slots = lanes + spare
        self.arena = arena_plan(plan, runner.shape_only_chunk, [SHAPE], slots) if arena else None
        self._use(self.arena)
        self.slab = host_slab_for(runner.model.device, self._waiting(lanes))
        kind = TokenReplayWatcher if tokens else Watcher
        self.watcher = kind(runner, questions, plan, self.budget, self.slab)
        if isinstance(self.watcher, TokenReplayWatcher):
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
        self._use(None)

    def _waiting(self, lanes: int) -> int:
        """Return the bytes that wait on the host, a chunk more than is remembered among them."""
        chunk, tokens = self.speaker.shape_only_chunk(STILLS, LATEST)
        return lanes * (self.budget.focus + self.budget.tokens) + chunk.nbytes + tokens

    @torch.inference_mode()
    def _use(self, plan: ArenaPlan | None) -> None:
        """Let the speaker read in an arena; the bench has compared it with the plain way."""
        runner, model = self.speaker, self.speaker.model
        if model.device.type == "cuda" and runner.dtype == torch.float32:
            plan = None  # flash kernels take half precision alone, as the comparison at start finds
        runner.arena_decoder = (
            None
            if plan is None
            else ArenaDecoder(
                model.language,
                runner.prefix,
                plan,
                model.config.previous,
                proportional_attention=runner.proportional_attention,
            )
        )

    def _begin(self) -> None:
        """Let each camera begin where timestamps start over, so that none does so later."""
        step = self.watcher.plan.epoch_step
        for batch in self.batches():
            self.rehearse(batch)
        for camera in self.cameras:
            memory = self.memory(camera)
            assert memory.origin is not None
            self._next[camera] = memory.origin + self.watcher.plan.horizon + step
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
        self.watcher.answerer.schedule = QuestionSchedule(questions)

    def answer(self, yes: bool) -> None:
        """Take every answer from now on for a yes, or for a no."""
        self.watcher.answerer.calibration = FixedCalibration(yes)

    def memory(self, camera: str = "c0") -> Memory:
        return self.watcher.memory_of(camera)

    def batches(self, windows: int = 1) -> Iterator[list[Window]]:
        """Yield the next windows of all cameras, as the analyzer takes them."""
        for _ in range(windows):
            cameras = iter(self.cameras)
            while batch := [
                self.window(camera) for camera in islice(cameras, MAX_WINDOWS_PER_STEP)
            ]:
                yield batch

    def step(self, batch: Sequence[Window]) -> list[Finding]:
        """Remember and answer, which is what the analyzer does with a batch."""
        answers = self.watcher.step_all(batch)
        _raise_any(each.failure for each in answers)
        return [finding for each in answers for finding in each.findings]

    def round(self, rounds: Sequence[Sequence[Window]]) -> list[Finding]:
        """Take batches in turn, the next one decoded ahead."""
        found = list[Finding]()
        for batch, ahead in zip(rounds, [*rounds[1:], ()], strict=True):
            for window in ahead:
                self.speaker.prepare([still.jpeg for still in window.stills])
            found += self.step(batch)
        return found

    def fill(self, windows: int) -> None:
        """Remember so many windows of every camera."""
        for batch in self.batches(windows):
            self.step(batch)

    def rehearse(self, windows: Sequence[Window]) -> None:
        """Remember windows without answering, all seen together."""
        _raise_any(self.watcher.restore(windows))

    def question(self) -> LastCall:
        """Take one more step, and return its last pass of questions."""
        last = LastCall()
        with last.of(self.speaker, "score"):
            self.fill(1)
        return last

    @property
    def graphs(self) -> int:
        """Return how many passes are held as graphs."""
        return len(self.speaker.arena_decoder._graphs) if self.speaker.arena_decoder else 0


def _raise_any(failures: Iterable[Failure | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


def site_of(bench: Bench, plan: MemoryPlan = USUAL, **options: Any) -> Site:
    """Return a site with the model of its size, in the arena where that is right on this card."""
    return Site(bench.speaker, plan, arena=bench.uses_arena, **options)


def tiers(ledger: TierBytes) -> Figures:
    """Return the megabytes of a memory by tier."""
    return {f"{t.name}_MB": round(getattr(ledger, t.name) / 1e6, 1) for t in fields(ledger)}


def fitting(bench: Bench, site: Site, working: int) -> Figures:
    """Return how many cameras the ledger says fit this card beside the model and a pass."""
    near = site.budget.recent + site.budget.gist
    found: Figures = {
        "card_MB_a_camera": round(near / 1e6, 1),
        "host_MB_a_camera": round((site.budget.focus + site.budget.tokens) / 1e6, 1),
    }
    if site.arena and site.speaker.arena_decoder:
        slot = site.arena.rows_per_slot * site.speaker.arena_decoder.arena.token_bytes
        found["arena_MB_a_camera"] = round(slot / 1e6, 1)
    if bench.is_cuda:
        weights = sum(weight.nbytes for weight in site.speaker.model.parameters())
        room = bench.total_memory - weights - working
        found |= {"working_GB": giga(working), "cameras_that_fit": _cameras_in(room, site)}
    return found


def _cameras_in(room: int, site: Site) -> int:
    """Return for how many cameras a card has room, those that begin a next epoch counted."""

    def is_too_much(cameras: int) -> bool:
        all_ = total_budget(site.watcher.plan, site.budget, cameras)
        return all_.recent + all_.gist > room

    return bisect_left(range(1, MAX_CAMERAS), True, key=is_too_much)


def tokens_of(bench: Bench) -> list[Tensor]:
    """Return random visual tokens of a window (G, V, E), on the host as a speaker gives them."""
    config = bench.config
    shape = STILLS // 4, config.tokens_per_group, config.language["hidden_size"]
    return [(torch.randn(shape) * 0.02).to(bench.dtype)]
