"""What the steps of the analyzer cost, against the way they were (`before.py`); for `memory.py`."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import median

from bench.before import watcher_before
from bench.replayed import STILLS, Replayed, empty_window
from torch import Tensor

from analyzer.calibration import Calibration
from analyzer.memory import Memory
from analyzer.nano.lessons import ABOUT, ANYTHING
from analyzer.plan import AT_ONCE, MemoryPlan, budget
from analyzer.questions import Question
from analyzer.videoxl2.kv import KVCache, KVChunk
from analyzer.videoxl2.speaker import Run, Seen, Speaker
from storage.records import Window

WINDOW = timedelta(seconds=STILLS)
CAMERAS = [f"camera-{n}" for n in range(AT_ONCE)]
HORIZONS = {"64s": 64, "10m": 600, "1h": 3600}
PHRASINGS = [
    *ANYTHING,
    *(ask for phrasings in zip(*ABOUT.values(), strict=False) for ask in phrasings),
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
    speaker: Speaker, tokens: Sequence[Tensor], horizon: int, questions: int = 1
) -> Replayed:
    """Return a watcher of memories that turn seldom."""
    length = timedelta(seconds=horizon)
    plan = MemoryPlan(horizon=length, focus_horizon=length, epoch=timedelta(hours=99))
    most = budget(plan, *speaker.blank(STILLS, plan.epoch), WINDOW)
    found = Replayed(speaker, asked(questions), plan, most)
    found.tokens = tokens
    return found


def filled(found: Replayed, full: Memory | None = None) -> int:
    """Fill the memories of all cameras, alike; return the number of the next window."""
    windows = found.plan.chunks(WINDOW)
    if full is None:
        for nth in range(windows):
            found.rehearse([empty_window(nth, CAMERAS[0])])
        full = found.memory_of(CAMERAS[0])
    for camera in CAMERAS:
        memory = found.memory_of(camera)
        memory.chunks = full.chunks
        memory.origin = found.plan.origin(full.chunks[-1].end, camera)
    return windows


def step_speedup(speaker: Speaker, tokens: Sequence[Tensor]) -> float:
    """Return how much faster eight cameras' step is at a horizon of ten minutes."""
    new = watching(speaker, tokens, 600)
    old = watcher_before(new)
    nth = filled(new)
    filled(old, new.memory_of(CAMERAS[0]))
    turns = [
        (
            seconds(lambda windows=windows: old.step_all(windows)),
            seconds(lambda windows=windows: new.step_all(windows)),
        )
        for windows in ([empty_window(nth + n, camera) for camera in CAMERAS] for n in range(7))
    ]
    return median(one for one, _ in turns) / median(other for _, other in turns)


def rehearsal_speedup(
    speaker: Speaker, tokens: Sequence[Tensor], jpegs: Sequence[bytes]
) -> tuple[float, float]:
    """Return how much faster eight cameras of ten minutes are rehearsed: without vision, with."""
    new = watching(speaker, tokens, 600)
    old = watcher_before(new)
    log = [empty_window(nth, camera) for nth in range(37) for camera in CAMERAS]
    batches = [log[at : at + AT_ONCE] for at in range(0, len(log), AT_ONCE)]
    ours = seconds(lambda: [new.rehearse(batch) for batch in batches])
    theirs = seconds(lambda: [old.rehearse(batch) for batch in batches])
    stills = [jpegs[:STILLS]]
    alone = median(seconds(lambda: speaker.see([Run(stills)])) for _ in range(5))
    both = [Run(stills)] * AT_ONCE
    together = median(seconds(lambda: speaker.see(both)) for _ in range(3)) / AT_ONCE
    return theirs / ours, (theirs + len(log) * alone) / (ours + len(log) * together)


class Certain(Calibration):
    """Takes every answer for a yes."""

    def probability(self, key: tuple[str, str, str], margin: float) -> float:
        return 1.0


def questions_speedup(speaker: Speaker, tokens: Sequence[Tensor], questions: int) -> float:
    """Return how much faster a window is at 64 s in which the yes of each question begins."""
    new = watching(speaker, tokens, 64, questions)
    ways = {"old": watcher_before(new), "new": new}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for nth in range(12):
        for name, way in ways.items():
            way.answers.calibration = Certain()
            way.answers._since.clear()
            spent[name].append(seconds(lambda way=way, nth=nth: way.step(empty_window(nth))))
    return median(spent["old"][4:]) / median(spent["new"][4:])


def worst_step(speaker: Speaker, tokens: Sequence[Tensor]) -> float:
    """Return the worst step over the median one: eight cameras over two short epochs."""
    found = watching(speaker, tokens, 320)
    found.plan = replace(found.plan, epoch=3 * found.plan.horizon)
    steps = [
        seconds(lambda nth=nth: found.step_all([empty_window(nth, camera) for camera in CAMERAS]))
        for nth in range(20 + 2 * (found.plan.step // WINDOW))
    ]
    return max(steps[20:]) / median(steps[20:])


class TimedMemory(Memory):
    """Counts the seconds that its policy takes."""

    spent = 0.0

    def append(self, window: Window, seen: Seen, made: KVChunk) -> None:
        TimedMemory.spent += seconds(lambda: super(TimedMemory, self).append(window, seen, made))

    def view(self, reach: timedelta, focus: Collection[int] = ()) -> list[KVChunk]:
        begin = time.process_time()
        found = super().view(reach, focus)
        TimedMemory.spent += time.process_time() - begin
        return found


class TimedSpeaker(Speaker):
    """Counts the seconds that laying takes."""

    spent = 0.0

    def _cache(self, behind: Sequence[KVChunk]) -> KVCache:
        begin = time.process_time()
        found = super()._cache(behind)
        TimedSpeaker.spent += time.process_time() - begin
        return found


class Timed(Replayed):
    def memory_of(self, camera: str) -> Memory:
        if camera not in self._memories:
            self._memories[camera] = TimedMemory(camera, self.plan, self.budget)
        return self._memories[camera]


def laying_share(
    speaker: Speaker, tokens: Sequence[Tensor], jpegs: Sequence[bytes], horizon: int
) -> tuple[float, float]:
    """Return the share of policy and laying in eight cameras' step: without vision, with."""
    plain = watching(speaker, tokens, horizon)
    timed = TimedSpeaker(speaker.model, speaker.tokenizer, speaker.name)
    found = Timed(timed, asked(1), plain.plan, plain.budget)
    found.tokens = tokens
    nth = filled(found)
    see = seconds(lambda: speaker.see([Run([jpegs[:STILLS]])] * AT_ONCE))
    shares = list[tuple[float, float]]()
    for n in range(5):
        TimedMemory.spent = TimedSpeaker.spent = 0.0
        windows = [empty_window(nth + n, camera) for camera in CAMERAS]
        step = seconds(lambda windows=windows: found.step_all(windows))
        spent = TimedMemory.spent + TimedSpeaker.spent
        shares.append((spent / step, spent / (step + see)))
    return median(one for one, _ in shares), median(other for _, other in shares)
