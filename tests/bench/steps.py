"""Time the analyzer's steps against the former ones (`baseline_runner.py`), for `memory.py`."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from statistics import median

from torch import Tensor

from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP, MemoryPlan, camera_budget
from analyzer.kv.cache import KVCache
from analyzer.kv.encoded import EncodedWindow
from analyzer.kv.memory import Memory
from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner
from analyzer.nano.workshop.lessons.lessons import ANOMALY_ASKS, KIND_ASKS
from analyzer.questions.calibration import Calibration
from analyzer.questions.question import Question
from bench.memory_baseline import baseline_watcher
from bench.token_replay import STILLS, TokenReplayWatcher, empty_window
from storage.records.records import Window

WINDOW = timedelta(seconds=STILLS)
CAMERAS = [f"camera-{n}" for n in range(MAX_WINDOWS_PER_STEP)]
HORIZONS = {"64s": 64, "10m": 600, "1h": 3600}
PHRASINGS = [
    *ANOMALY_ASKS,
    *(ask for phrasings in zip(*KIND_ASKS.values(), strict=False) for ask in phrasings),
]


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def asked(number: int, look_back: timedelta | None = None) -> list[Question]:
    return [
        Question(name=f"q{n}", ask=ask, cameras=frozenset(), every=WINDOW, look_back=look_back)
        for n, ask in enumerate(PHRASINGS[:number])
    ]


def watching(
    runner: ModelRunner, tokens: Sequence[Tensor], horizon: int, questions: int = 1
) -> TokenReplayWatcher:
    """Return a watcher of memories that turn seldom."""
    length = timedelta(seconds=horizon)
    plan = MemoryPlan(horizon=length, focus_horizon=length, epoch=timedelta(hours=99))
    most = camera_budget(plan, *runner.shape_only_chunk(STILLS, plan.epoch), WINDOW)
    found = TokenReplayWatcher(runner, asked(questions), plan, most)
    found.tokens = tokens
    return found


def filled(found: TokenReplayWatcher, full: Memory | None = None) -> int:
    """Fill the memories of all cameras, alike; return the number of the next window."""
    windows = found.plan.max_chunks(WINDOW)
    if full is None:
        for nth in range(windows):
            found.restore([empty_window(nth, CAMERAS[0])])
        full = found.memory_of(CAMERAS[0])
    for camera in CAMERAS:
        memory = found.memory_of(camera)
        memory.chunks = full.chunks
        memory.origin = found.plan.epoch_origin(full.chunks[-1].end, camera)
    return windows


def step_speedup(runner: ModelRunner, tokens: Sequence[Tensor]) -> float:
    """Return how much faster eight cameras' step is at a horizon of ten minutes."""
    new = watching(runner, tokens, 600)
    old = baseline_watcher(new)
    nth = filled(new)
    filled(old, new.memory_of(CAMERAS[0]))
    turns = [
        (
            seconds(partial(old.step_all, windows)),
            seconds(partial(new.step_all, windows)),
        )
        for windows in ([empty_window(nth + n, camera) for camera in CAMERAS] for n in range(7))
    ]
    return median(one for one, _ in turns) / median(other for _, other in turns)


def rehearsal_speedup(
    runner: ModelRunner, tokens: Sequence[Tensor], jpegs: Sequence[bytes]
) -> tuple[float, float]:
    """Return how much faster eight cameras of ten minutes are rehearsed: without vision, with."""
    new = watching(runner, tokens, 600)
    old = baseline_watcher(new)
    log = [empty_window(nth, camera) for nth in range(37) for camera in CAMERAS]
    batches = [
        log[at : at + MAX_WINDOWS_PER_STEP] for at in range(0, len(log), MAX_WINDOWS_PER_STEP)
    ]
    ours = seconds(lambda: [new.restore(batch) for batch in batches])
    theirs = seconds(lambda: [old.restore(batch) for batch in batches])
    stills = [jpegs[:STILLS]]
    alone = median(seconds(lambda: runner.encode([WindowRun(stills)])) for _ in range(5))
    both = [WindowRun(stills)] * MAX_WINDOWS_PER_STEP
    together = median(seconds(lambda: runner.encode(both)) for _ in range(3)) / MAX_WINDOWS_PER_STEP
    return theirs / ours, (theirs + len(log) * alone) / (ours + len(log) * together)


class CertainCalibration(Calibration):
    """Takes every answer for a yes."""

    def observe(self, key: tuple[str, str, str], margin: float) -> float:
        return 1.0


def questions_speedup(runner: ModelRunner, tokens: Sequence[Tensor], questions: int) -> float:
    """Return how much faster a window is at 64 s in which the yes of each question begins."""
    new = watching(runner, tokens, 64, questions)
    ways = {"old": baseline_watcher(new), "new": new}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for nth in range(12):
        for name, way in ways.items():
            way.answerer.calibration = CertainCalibration()
            way.answerer._answer_since.clear()
            spent[name].append(seconds(partial(way.step, empty_window(nth))))
    return median(spent["old"][4:]) / median(spent["new"][4:])


def worst_step(runner: ModelRunner, tokens: Sequence[Tensor]) -> float:
    """Return the worst step over the median one: eight cameras over two short epochs."""
    found = watching(runner, tokens, 320)
    found.plan = replace(found.plan, epoch=3 * found.plan.horizon)
    steps = [
        seconds(partial(found.step_all, [empty_window(nth, camera) for camera in CAMERAS]))
        for nth in range(20 + 2 * (found.plan.epoch_step // WINDOW))
    ]
    return max(steps[20:]) / median(steps[20:])


class TimedMemory(Memory):
    """Counts the seconds that its policy takes."""

    spent = 0.0

    def append(
        self,
        window: Window,
        times: tuple[datetime, ...],
        encoded: EncodedWindow,
        kv_chunk: AnyChunk,
    ) -> None:
        TimedMemory.spent += seconds(
            lambda: super(TimedMemory, self).append(window, times, encoded, kv_chunk)
        )

    def context(self, look_back: timedelta, focus: Collection[int] = ()) -> list[AnyChunk]:
        begin = time.process_time()
        found = super().context(look_back, focus)
        TimedMemory.spent += time.process_time() - begin
        return found


class TimedRunner(ModelRunner):
    """Counts the seconds that laying takes."""

    spent = 0.0

    def _build_cache(self, context: Sequence[AnyChunk], room: int = 0) -> KVCache:
        begin = time.process_time()
        found = super()._build_cache(context, room)
        TimedRunner.spent += time.process_time() - begin
        return found


class TimedWatcher(TokenReplayWatcher):
    def memory_of(self, camera: str) -> Memory:
        if camera not in self._memories:
            self._memories[camera] = TimedMemory(camera, self.plan, self.budget)
        return self._memories[camera]


def laying_share(
    runner: ModelRunner, tokens: Sequence[Tensor], jpegs: Sequence[bytes], horizon: int
) -> tuple[float, float]:
    """Return the share of policy and laying in eight cameras' step: without vision, with."""
    plain = watching(runner, tokens, horizon)
    timed = TimedRunner(runner.model, runner.tokenizer, runner.name)
    found = TimedWatcher(timed, asked(1), plain.plan, plain.budget)
    found.tokens = tokens
    nth = filled(found)
    see = seconds(lambda: runner.encode([WindowRun([jpegs[:STILLS]])] * MAX_WINDOWS_PER_STEP))
    shares = list[tuple[float, float]]()
    for n in range(5):
        TimedMemory.spent = TimedRunner.spent = 0.0
        windows = [empty_window(nth + n, camera) for camera in CAMERAS]
        step = seconds(partial(found.step_all, windows))
        spent = TimedMemory.spent + TimedRunner.spent
        shares.append((spent / step, spent / (step + see)))
    return median(one for one, _ in shares), median(other for _, other in shares)
