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
from bench.gpu_steps.bench import Bench, Figures, giga
from bench.gpu_steps.clocks import LastCall
from bench.gpu_steps.footage import Jpeg
from bench.replayed import Replayed
from torch import Tensor

from analyzer.agenda import Agenda
from analyzer.batches import Failure
from analyzer.calibration import Calibration
from analyzer.memory import Memory
from analyzer.plan import (
    AT_ONCE,
    Ledger,
    MemoryPlan,
    WindowShape,
    arena_plan,
    largest_budget,
    of_all,
)
from analyzer.questions import Question
from analyzer.videoxl2.slab import slab_for
from analyzer.videoxl2.slots import ArenaPlan
from analyzer.videoxl2.speaker import Speaker
from analyzer.videoxl2.streams import Streams
from analyzer.watcher import Watcher
from storage.records import Clock, ClockSource, Finding, Still, Window

STILLS = 16
LENGTH = timedelta(seconds=STILLS)
SHAPE = WindowShape(stills=STILLS, length=LENGTH)
LATEST = timedelta(days=1)
DAY = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USUAL = MemoryPlan()
MOST = 10_000
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
CLOCK = Clock(source=ClockSource.RECEIVED, offset=0.0)


def empty(_number: int) -> bytes:
    """Return a still that nobody will look at."""
    return b""


def plan_for(windows: int, recent: int, **changes: Any) -> MemoryPlan:
    """Return a plan that remembers so many windows, the last `recent` of them in full."""
    horizon = windows * LENGTH
    named = {"horizon": horizon, "focus_horizon": horizon, "recent": recent, "focus": 0}
    return MemoryPlan(**{**named, "epoch": 2 * horizon + timedelta(hours=4), **changes})


class Fixed(Calibration):
    """Says yes to every answer, or no; a second look is taken where a yes begins."""

    def __init__(self, yes: bool) -> None:
        super().__init__()
        self._yes = yes

    def probability(self, key: tuple[str, str, str], margin: float) -> float:
        return float(self._yes)


class Site:
    """Cameras with one watcher; every camera begins at the start of an epoch of its own.

    Where `tokens` are given they are what every window shows, and no still is looked at. With
    `arena` the speaker reads in one, with `spare` slots for second looks, and else lays each
    memory anew.
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
        arena: bool = False,
        spare: int = 0,
    ) -> None:
        self.speaker, self.jpeg = speaker, jpeg
        self.budget = largest_budget(plan, speaker.blank, [SHAPE])
        slots = lanes + spare
        self.arena = arena_plan(plan, speaker.blank, [SHAPE], slots) if arena else None
        self._use(self.arena)
        self.slab = slab_for(speaker.model.device, self._waiting(lanes))
        kind = Replayed if tokens else Watcher
        self.watcher = kind(speaker, questions, plan, self.budget, self.slab)
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
        self._use(None)

    def _waiting(self, lanes: int) -> int:
        """Return the bytes that wait on the host, a chunk more than is remembered among them."""
        chunk, tokens = self.speaker.blank(STILLS, LATEST)
        return lanes * (self.budget.focus + self.budget.tokens) + chunk.nbytes + tokens

    @torch.inference_mode()
    def _use(self, plan: ArenaPlan | None) -> None:
        """Let the speaker read in an arena; the bench has compared it with the plain way."""
        speaker, model = self.speaker, self.speaker.model
        if model.device.type == "cuda" and speaker.dtype == torch.float32:
            plan = None  # flash kernels take half precision alone, as the comparison at start finds
        speaker.streams = plan and Streams(
            model.language,
            speaker.prefix,
            plan,
            model.config.previous,
            corrected=speaker.corrected,
        )

    def _begin(self) -> None:
        """Let each camera begin where timestamps start over, so that none does so later."""
        step = self.watcher.plan.step
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
        self.watcher.answers.agenda = Agenda(questions)

    def answer(self, yes: bool) -> None:
        """Take every answer from now on for a yes, or for a no."""
        self.watcher.answers.calibration = Fixed(yes)

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
        _raise_any(self.watcher.rehearse(windows))

    def question(self) -> LastCall:
        """Take one more step, and return its last pass of questions."""
        last = LastCall()
        with last.of(self.speaker, "ask"):
            self.fill(1)
        return last

    @property
    def graphs(self) -> int:
        """Return how many passes are held as graphs."""
        return len(self.speaker.streams._graphs) if self.speaker.streams else 0


def _raise_any(failures: Iterable[Failure | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


def site_of(bench: Bench, plan: MemoryPlan = USUAL, **options: Any) -> Site:
    """Return a site with the model of its size, in the arena where that is right on this card."""
    return Site(bench.speaker, plan, arena=bench.uses_arena, **options)


def tiers(ledger: Ledger) -> Figures:
    """Return the megabytes of a memory by tier."""
    return {f"{t.name}_MB": round(getattr(ledger, t.name) / 1e6, 1) for t in fields(ledger)}


def fitting(bench: Bench, site: Site, working: int) -> Figures:
    """Return how many cameras the ledger says fit this card beside the model and a pass."""
    near = site.budget.recent + site.budget.gist
    found: Figures = {
        "card_MB_a_camera": round(near / 1e6, 1),
        "host_MB_a_camera": round((site.budget.focus + site.budget.tokens) / 1e6, 1),
    }
    if site.arena and site.speaker.streams:
        slot = site.arena.slot * site.speaker.streams.arena.token_bytes
        found["arena_MB_a_camera"] = round(slot / 1e6, 1)
    if bench.is_cuda:
        weights = sum(weight.nbytes for weight in site.speaker.model.parameters())
        room = bench.total_memory - weights - working
        found |= {"working_GB": giga(working), "cameras_that_fit": _cameras_in(room, site)}
    return found


def _cameras_in(room: int, site: Site) -> int:
    """Return for how many cameras a card has room, those that begin a next epoch counted."""

    def is_too_much(cameras: int) -> bool:
        all_ = of_all(site.watcher.plan, site.budget, cameras)
        return all_.recent + all_.gist > room

    return bisect_left(range(1, MOST), True, key=is_too_much)


def tokens_of(bench: Bench) -> list[Tensor]:
    """Return random visual tokens of a window (G, V, E), on the host as a speaker gives them."""
    config = bench.config
    shape = STILLS // 4, config.tokens_per_group, config.language["hidden_size"]
    return [(torch.randn(shape) * 0.02).to(bench.dtype)]
