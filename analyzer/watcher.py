"""The heart of the analyzer: remember windows, then answer what has come due."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

import structlog
from torch import Tensor

from analyzer.answers import Answers, WindowAnswers
from analyzer.batches import Batches, Failure
from analyzer.memory import Chunk, Memory, group_times
from analyzer.plan import Ledger, MemoryPlan
from analyzer.questions import Question, zones_asked_about
from analyzer.videoxl2.overlay import Overlay, overlay_of
from analyzer.videoxl2.slab import HostSlab
from analyzer.videoxl2.speaker import Run, Seen, Speaker, WindowToRead
from analyzer.zones import Zone
from storage.records import Finding, Window

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """What was done with windows of different cameras, by their numbers.

    `read` are those that were not remembered, with what failed of them; `overlapping` those that
    were in part.
    """

    read: Mapping[int, Failure | None]
    overlapping: Sequence[int] = ()

    @property
    def remembered(self) -> list[int]:
        """Return those that are remembered now."""
        return [nth for nth, failure in self.read.items() if failure is None]


class Watcher:
    """A model with one memory per camera and the questions it is asked."""

    def __init__(
        self,
        speaker: Speaker,
        questions: Sequence[Question],
        plan: MemoryPlan,
        budget: Ledger | None = None,
        slab: HostSlab | None = None,
    ) -> None:
        self.speaker = speaker
        self.batches = Batches(speaker)
        self.answers = Answers(self.batches, questions)
        self.plan = plan
        self.budget = budget
        self.slab = slab
        self.zones = zones_asked_about(questions)
        """What is outlined on the stills of each camera, by name."""
        self._overlays = _overlays(speaker, self.zones)
        self._memories: dict[str, Memory] = {}
        self._overlaps = 0

    def step(self, window: Window) -> tuple[Finding, ...]:
        """Remember one window, then answer whatever has come due; raise what it failed of."""
        (answers,) = self.step_all([window])
        if answers.failure is not None:
            raise answers.failure
        return answers.findings

    @property
    def decodes_ahead(self) -> bool:
        """Return whether it pays to `prepare` windows."""
        return self.speaker.decoder.decodes_ahead

    def prepare(self, window: Window) -> None:
        """Begin to decode the stills of a window that comes soon."""
        self.speaker.prepare([still.jpeg for still in window.stills])

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        """Remember windows, those of different cameras in one pass, and answer what has come due.

        A window that is remembered already is passed over, also where that is a part of it; a
        camera whose time was set back starts with an empty memory. One that cannot be read costs
        the others nothing. Raises DeviceLost.
        """
        answers = [WindowAnswers(window=window) for window in windows]
        for wave in self._waves(windows):
            for nth in wave.overlapping:
                answers[nth] = WindowAnswers(window=windows[nth], is_overlap=True)
                self._count_overlap(windows[nth])
            for nth, failure in wave.read.items():
                answers[nth] = WindowAnswers(window=windows[nth], failure=failure)
            kept = wave.remembered
            told = self.answers.at_end([self._end_of(windows[nth]) for nth in kept])
            for nth, one in zip(kept, told, strict=True):
                answers[nth] = one
        return answers

    def rehearse(self, windows: Sequence[Window]) -> list[Failure | None]:
        """Remember windows again, after a restart, without answering; return what failed."""
        failures: list[Failure | None] = [None] * len(windows)
        for wave in self._waves(windows, together=True):
            for nth, failure in wave.read.items():
                failures[nth] = failure
            if self.plan.is_choosy:
                self.answers.weigh([self._end_of(windows[nth]) for nth in wave.remembered])
        return failures

    def forget(self, camera: str) -> None:
        """Let go of all that is known of a camera: somebody else watches it now."""
        if self._memories.pop(camera, None) is not None:
            logger.info("memory dropped", camera=camera)
        self.answers.forget(camera)

    def start_over(self, camera: str) -> None:
        """Begin the memory of a camera, its runs and its schedule anew: its time was set back."""
        self.memory_of(camera).clear()
        self.answers.restart(camera)
        logger.warning("time was set back: the memory begins anew", camera=camera)

    def forget_after(self, instant: datetime) -> None:
        """Let go of the cameras that are remembered beyond an instant: a clock was ahead.

        All that comes would be passed over as late.
        """
        for camera, memory in list(self._memories.items()):
            if memory.chunks and memory.chunks[-1].end > instant:
                logger.warning("memory is ahead of our clock", camera=camera)
                self.forget(camera)

    @property
    def cameras(self) -> frozenset[str]:
        """Return the cameras of which anything is remembered."""
        return frozenset(self._memories)

    def memory_of(self, camera: str) -> Memory:
        """Return the memory of a camera, empty at first."""
        if camera not in self._memories:
            self._memories[camera] = Memory(camera, self.plan, self.budget, self.slab)
        return self._memories[camera]

    def recall(self, finding: Finding) -> None:
        """Take up, after a restart, what was answered before."""
        self.answers.recall(finding)

    def _end_of(self, window: Window) -> tuple[Window, Memory]:
        return window, self.memory_of(window.camera)

    def _waves(self, windows: Sequence[Window], *, together: bool = False) -> Iterator[Wave]:
        """Look at all windows together, and remember the nth of each camera in the nth wave.

        Those that may be read `together` are one wave where that changes nothing.
        """
        seen = self._look(windows)
        if together and self._remember_together(windows, seen):
            yield Wave(read=dict.fromkeys(range(len(windows))))
            return
        for numbers in _turns(windows):
            overlapping = [nth for nth in numbers if self._is_overlap(windows[nth])]
            fresh = [nth for nth in numbers if nth in seen and self._is_fresh(windows[nth])]
            read = self._remember({nth: (windows[nth], seen[nth]) for nth in fresh})
            yield Wave(read=read, overlapping=overlapping)

    def _count_overlap(self, window: Window) -> None:
        self._overlaps += 1
        if self._overlaps & (self._overlaps - 1) == 0:
            told = "window overlaps the one before: passed over, another process writes the camera"
            logger.warning(told, camera=window.camera, count=self._overlaps)

    def _is_overlap(self, window: Window) -> bool:
        memory = self.memory_of(window.camera)
        return memory.overlaps(window) and not memory.is_outdated_by(window)

    def _is_fresh(self, window: Window) -> bool:
        memory = self.memory_of(window.camera)
        if memory.is_outdated_by(window):
            self.start_over(window.camera)
        return not memory.remembers(window)

    def _look(self, windows: Sequence[Window]) -> dict[int, Seen | Failure]:
        """Look at the windows that are not remembered, those of a camera as one run."""
        numbers = dict[str, list[tuple[int, Window]]]()
        for nth, window in enumerate(windows):
            numbers.setdefault(window.camera, []).append((nth, window))
        memories = [self.memory_of(camera) for camera in numbers]
        runs = list(map(_fresh_run, memories, numbers.values()))
        seen = self._see(
            [
                (memory, [window for _, window in run])
                for memory, run in zip(memories, runs, strict=True)
            ]
        )
        return {
            nth: one
            for run, of_run in zip(runs, seen, strict=True)
            for (nth, _), one in zip(run, of_run, strict=True)
        }

    def _see(self, runs: Sequence[tuple[Memory, Sequence[Window]]]) -> list[list[Seen | Failure]]:
        return self.batches.see(
            [
                Run(
                    [[still.jpeg for still in window.stills] for window in run],
                    memory.background,
                    self._overlays.get(memory.camera),
                )
                for memory, run in runs
            ]
        )

    def _remember(
        self, fresh: Mapping[int, tuple[Window, Seen | Failure]]
    ) -> dict[int, Failure | None]:
        """Read windows of different cameras into their memories; return what failed."""
        outcomes: dict[int, Failure | None] = {}
        lanes = list[tuple[int, Window, Seen, Memory]]()
        for nth, (window, seen) in fresh.items():
            outcomes[nth] = seen if isinstance(seen, Exception) else None
            if isinstance(seen, Exception):
                continue
            if seen.corrupt:
                logger.warning("corrupt stills replaced", window=window.id, count=seen.corrupt)
            memory = self.memory_of(window.camera)
            memory.turn(window.start)
            lanes += [(nth, window, seen, each) for each in memory.epochs]
        made = self.batches.read([_piece(*lane[1:]) for lane in lanes])
        # Both epochs hold what was seen once.
        kept = {nth: self._on_host(seen) for nth, _, seen, _ in lanes}
        for (nth, window, _, memory), chunk in zip(lanes, made, strict=True):
            if not isinstance(chunk, Exception):
                if outcomes[nth] is None:
                    memory.append(window, kept[nth], chunk)
            elif memory is self.memory_of(window.camera):
                outcomes[nth] = chunk
            else:
                logger.warning("not read into the next epoch", window=window.id, reason=str(chunk))
        return outcomes

    def _remember_together(
        self, windows: Sequence[Window], seen: Mapping[int, Seen | Failure]
    ) -> bool:
        """Read all windows in one pass, neighbours of a camera too; return whether that was done.

        It is not where one was not seen, where a memory would demote, forget or turn meanwhile,
        and where the pass fails.
        """
        whole = [one for one in map(seen.get, range(len(windows))) if isinstance(one, Seen)]
        runs = [list(run) for _, run in groupby(windows, key=lambda window: window.camera)]
        memories = [self.memory_of(run[0].camera) for run in runs]
        if len(whole) < len(windows) or len({id(memory) for memory in memories}) < len(runs):
            return False
        if not all(memory.grows(run) for memory, run in zip(memories, runs, strict=True)):
            return False
        pieces = list[WindowToRead]()
        for memory, run in zip(memories, runs, strict=True):
            memory.turn(run[0].start)
            for window in run:
                behind = None if window is not run[0] else memory.behind()
                tokens_GVE = whole[len(pieces)].tokens_GVE
                pieces.append((tokens_GVE, memory.seconds(group_times(window)), behind))
        made = self.batches.read_together(pieces)
        for window, one, chunk in zip(windows, whole, made, strict=bool(made)):
            self.memory_of(window.camera).append(window, self._on_host(one), chunk)
        return bool(made)

    def _on_host(self, seen: Seen) -> Seen:
        keep = self.slab.keep if self.slab else Tensor.cpu
        return replace(seen, tokens_GVE=keep(seen.tokens_GVE))


def _piece(window: Window, seen: Seen, memory: Memory) -> WindowToRead:
    return seen.tokens_GVE, memory.seconds(group_times(window)), memory.behind()


def _overlays(speaker: Speaker, zones: Mapping[str, Mapping[str, Zone]]) -> dict[str, Overlay]:
    """Return what is drawn on the stills of each camera."""
    config, device = speaker.model.config, speaker.model.device
    return {
        camera: overlay_of(list(named.values()), config.height, config.width, device)
        for camera, named in zones.items()
    }


def _turns(windows: Sequence[Window]) -> list[list[int]]:
    """Return the numbers of the first window of each camera, of the second, and so on."""
    turns, count = list[list[int]](), dict[str, int]()
    for nth, window in enumerate(windows):
        turn = count[window.camera] = count.get(window.camera, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(nth)
    return turns


def _fresh_run(memory: Memory, windows: Sequence[tuple[int, Window]]) -> list[tuple[int, Window]]:
    """Return the windows of a camera that will not be remembered when their turn comes."""
    last: Chunk | Window | None = memory.chunks[-1] if memory.chunks else None
    fresh = list[tuple[int, Window]]()
    for nth, window in windows:
        may_be_back = window.is_set_back or (
            last is not None and window.after_gap and window.end < last.start
        )
        if last is None or window.start > last.end or may_be_back:
            fresh.append((nth, window))
            last = window
    return fresh
