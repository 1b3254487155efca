"""Remember windows per camera, then answer the questions that are due."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

import structlog
from torch import Tensor

from analyzer.batching import BatchedRunner, Failure
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MemoryPlan, TierBytes
from analyzer.kv.encoded import EncodedWindow
from analyzer.kv.host_slab import HostSlab
from analyzer.kv.memory import Memory, MemoryChunk
from analyzer.models.messages import WindowRun, WindowToRemember
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.overlay import ZoneOverlay, build_overlay
from analyzer.questions.answers import QuestionAnswerer, WindowAnswers
from analyzer.questions.question import Question, zones_by_camera
from analyzer.zones import Zone
from storage.records.records import Finding, Window

OVERLAP_EVENT = "window overlaps the one before: passed over, another process writes the camera"

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRound:
    """The result for windows of different cameras, by their numbers.

    `failures` has each new window, with None if it is remembered now; `overlapping` are those of
    which a part was remembered already.
    """

    failures: Mapping[int, Failure | None]
    overlapping: Sequence[int] = ()

    @property
    def remembered(self) -> list[int]:
        """Return the windows that are remembered now."""
        return [nth for nth, failure in self.failures.items() if failure is None]


class Watcher:
    """A model with one memory per camera and standing questions."""

    def __init__(
        self,
        runner: ModelRunner,
        questions: Sequence[Question],
        plan: MemoryPlan,
        budget: TierBytes | None = None,
        slab: HostSlab | None = None,
    ) -> None:
        self.runner = runner
        self.batched_runner = BatchedRunner(runner)
        self.answerer = QuestionAnswerer(self.batched_runner, questions)
        self.plan = plan
        self.budget = budget
        self.slab = slab
        self.zones = zones_by_camera(questions)
        """The zones outlined on the stills of each camera, by name."""
        self._overlays = _overlays(runner, self.zones)
        self._memories: dict[str, Memory] = {}
        self._overlaps = 0

    def step(self, window: Window) -> tuple[Finding, ...]:
        """Remember one window and answer the due questions; raise its failure."""
        (answers,) = self.step_all([window])
        if answers.failure is not None:
            raise answers.failure
        return answers.findings

    @property
    def can_decode_ahead(self) -> bool:
        """Return whether `prepare` decodes on a second device, in parallel."""
        return self.runner.still_decoder.can_decode_ahead

    def prepare(self, window: Window) -> None:
        """Start to decode the stills of a window that is analysed soon."""
        self.runner.prepare([still.jpeg for still in window.stills])

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        """Remember windows and answer the due questions; different cameras share each pass.

        Windows that are remembered already, wholly or in part, are skipped; a camera whose time
        was set back starts with an empty memory. An unreadable window leaves the others
        unaffected. Raises DeviceLost.
        """
        answers = [WindowAnswers(window=window) for window in windows]
        for round_ in self._rounds(windows):
            for nth in round_.overlapping:
                answers[nth] = WindowAnswers(window=windows[nth], is_overlap=True)
                self._count_overlap(windows[nth])
            for nth, failure in round_.failures.items():
                answers[nth] = WindowAnswers(window=windows[nth], failure=failure)
            remembered = round_.remembered
            answered = self.answerer.answer_due(
                [self._with_memory(windows[nth]) for nth in remembered]
            )
            for nth, one in zip(remembered, answered, strict=True):
                answers[nth] = one
        return answers

    def restore(self, windows: Sequence[Window]) -> list[Failure | None]:
        """Remember windows again after a restart, without answers; return their failures."""
        failures: list[Failure | None] = [None] * len(windows)
        for round_ in self._rounds(windows, together=True):
            for nth, failure in round_.failures.items():
                failures[nth] = failure
            if self.plan.is_relevance_weighted:
                self.answerer.record_relevance(
                    [self._with_memory(windows[nth]) for nth in round_.remembered]
                )
        return failures

    def forget(self, camera: str) -> None:
        """Drop all state of a camera, which another analyzer watches now."""
        if self._memories.pop(camera, None) is not None:
            logger.info("memory dropped", camera=camera)
        self.answerer.forget(camera)

    def start_over(self, camera: str) -> None:
        """Reset memory, runs and schedule of a camera whose time was set back."""
        self.memory_of(camera).clear()
        self.answerer.restart(camera)
        logger.warning("time was set back: the memory begins anew", camera=camera)

    def forget_after(self, instant: datetime) -> None:
        """Drop the cameras with a memory beyond an instant, because a clock was ahead.

        Their memories would skip all new windows as late.
        """
        for camera, memory in list(self._memories.items()):
            if memory.chunks and memory.chunks[-1].end > instant:
                logger.warning("memory is ahead of our clock", camera=camera)
                self.forget(camera)

    @property
    def cameras(self) -> frozenset[str]:
        """Return the cameras that have a memory."""
        return frozenset(self._memories)

    def find_memory(self, camera: str) -> Memory | None:
        """Return the memory of a camera, or None."""
        return self._memories.get(camera)

    def memory_of(self, camera: str) -> Memory:
        """Return the memory of a camera; create an empty one if there is none."""
        if camera not in self._memories:
            self._memories[camera] = Memory(camera, self.plan, self.budget, self.slab)
        return self._memories[camera]

    def restore_finding(self, finding: Finding) -> None:
        """Restore an earlier answer after a restart."""
        self.answerer.restore(finding)

    def _with_memory(self, window: Window) -> tuple[Window, Memory]:
        return window, self.memory_of(window.camera)

    def _rounds(
        self, windows: Sequence[Window], *, together: bool = False
    ) -> Iterator[MemoryRound]:
        """Encode all windows together, then remember the nth of each camera in the nth round.

        With `together` all are one round if that yields the same memories.
        """
        encoded = self._encode_new(windows)
        if together and self._remember_together(windows, encoded):
            yield MemoryRound(failures=dict.fromkeys(range(len(windows))))
            return
        for numbers in _numbers_by_round(windows):
            overlapping = [nth for nth in numbers if self._is_overlap(windows[nth])]
            new = [nth for nth in numbers if nth in encoded and self._admit(windows[nth])]
            failures = self._remember({nth: (windows[nth], encoded[nth]) for nth in new})
            yield MemoryRound(failures=failures, overlapping=overlapping)

    def _count_overlap(self, window: Window) -> None:
        self._overlaps += 1
        if self._overlaps & (self._overlaps - 1) == 0:
            logger.warning(OVERLAP_EVENT, camera=window.camera, count=self._overlaps)

    def _is_overlap(self, window: Window) -> bool:
        memory = self.memory_of(window.camera)
        return memory.is_overlapping(window) and not memory.is_outdated_by(window)

    def _admit(self, window: Window) -> bool:
        """Return whether to remember a window; start its camera over if its time was set back."""
        memory = self.memory_of(window.camera)
        if memory.is_outdated_by(window):
            self.start_over(window.camera)
        return not memory.is_remembered(window)

    def _encode_new(self, windows: Sequence[Window]) -> dict[int, EncodedWindow | Failure]:
        """Encode the windows that are not remembered, those of a camera as one run."""
        numbers = dict[str, list[tuple[int, Window]]]()
        for nth, window in enumerate(windows):
            numbers.setdefault(window.camera, []).append((nth, window))
        memories = [self.memory_of(camera) for camera in numbers]
        runs = list(map(_new_windows, memories, numbers.values()))
        encoded = self._encode(
            [
                (memory, [window for _, window in run])
                for memory, run in zip(memories, runs, strict=True)
            ]
        )
        return {
            nth: one
            for run, of_run in zip(runs, encoded, strict=True)
            for (nth, _), one in zip(run, of_run, strict=True)
        }

    def _encode(
        self, runs: Sequence[tuple[Memory, Sequence[Window]]]
    ) -> list[list[EncodedWindow | Failure]]:
        return self.batched_runner.encode(
            [
                WindowRun(
                    [[still.jpeg for still in window.stills] for window in run],
                    memory.background,
                    self._overlays.get(memory.camera),
                )
                for memory, run in runs
            ]
        )

    def _remember(
        self, new: Mapping[int, tuple[Window, EncodedWindow | Failure]]
    ) -> dict[int, Failure | None]:
        """Prefill windows of different cameras into their memories; return their failures."""
        outcomes: dict[int, Failure | None] = {}
        inputs = list[tuple[int, Window, EncodedWindow, Memory]]()
        for nth, (window, encoded) in new.items():
            outcomes[nth] = encoded if isinstance(encoded, Exception) else None
            if isinstance(encoded, Exception):
                continue
            if encoded.corrupt:
                logger.warning("corrupt stills replaced", window=window.id, count=encoded.corrupt)
            memory = self.memory_of(window.camera)
            memory.rebase_epoch(window.start)
            inputs += [(nth, window, encoded, each) for each in memory.epochs]
        chunks = self.batched_runner.prefill(
            [
                self._prefill_input(window, encoded, memory, memory.prefill_context())
                for _, window, encoded, memory in inputs
            ]
        )
        # Both epochs share one copy of the visual tokens.
        on_host = {nth: self._on_host(encoded) for nth, _, encoded, _ in inputs}
        for (nth, window, _, memory), chunk in zip(inputs, chunks, strict=True):
            if not isinstance(chunk, Exception):
                if outcomes[nth] is None:
                    memory.append(window, self.runner.group_times(window), on_host[nth], chunk)
            elif memory is self.memory_of(window.camera):
                outcomes[nth] = chunk
            else:
                logger.warning("not read into the next epoch", window=window.id, reason=str(chunk))
        return outcomes

    def _remember_together(
        self, windows: Sequence[Window], encoded: Mapping[int, EncodedWindow | Failure]
    ) -> bool:
        """Prefill all windows in one pass, consecutive ones too; return whether that was done.

        Return False if a window is not encoded, if a memory would pool, drop or rebase chunks
        meanwhile, or if the pass fails.
        """
        whole = [
            one for one in map(encoded.get, range(len(windows))) if isinstance(one, EncodedWindow)
        ]
        runs = [list(run) for _, run in groupby(windows, key=lambda window: window.camera)]
        memories = [self.memory_of(run[0].camera) for run in runs]
        if len(whole) < len(windows) or len({id(memory) for memory in memories}) < len(runs):
            return False
        if not all(memory.can_append_only(run) for memory, run in zip(memories, runs, strict=True)):
            return False
        inputs = list[WindowToRemember]()
        for memory, run in zip(memories, runs, strict=True):
            memory.rebase_epoch(run[0].start)
            for window in run:
                context = None if window is not run[0] else memory.prefill_context()
                inputs.append(self._prefill_input(window, whole[len(inputs)], memory, context))
        chunks = self.batched_runner.prefill_together(inputs)
        for window, one, chunk in zip(windows, whole, chunks, strict=bool(chunks)):
            memory, times = self.memory_of(window.camera), self.runner.group_times(window)
            memory.append(window, times, self._on_host(one), chunk)
        return bool(chunks)

    def _prefill_input(
        self,
        window: Window,
        encoded: EncodedWindow,
        memory: Memory,
        context: Sequence[AnyChunk] | None,
    ) -> WindowToRemember:
        seconds = memory.to_timestamps(self.runner.group_times(window))
        return WindowToRemember(encoded.tokens_GVE, seconds, context)

    def _on_host(self, encoded: EncodedWindow) -> EncodedWindow:
        store = self.slab.store if self.slab else Tensor.cpu
        return replace(encoded, tokens_GVE=store(encoded.tokens_GVE))


def _overlays(
    runner: ModelRunner, zones: Mapping[str, Mapping[str, Zone]]
) -> dict[str, ZoneOverlay]:
    """Return the overlay for the stills of each camera."""
    config, device = runner.model.config, runner.model.device
    return {
        camera: build_overlay(list(named.values()), config.height, config.width, device)
        for camera, named in zones.items()
    }


def _numbers_by_round(windows: Sequence[Window]) -> list[list[int]]:
    """Return the numbers of the first window of each camera, of the second, and so on."""
    rounds, count = list[list[int]](), dict[str, int]()
    for nth, window in enumerate(windows):
        nth_of_camera = count[window.camera] = count.get(window.camera, -1) + 1
        if nth_of_camera == len(rounds):
            rounds.append([])
        rounds[nth_of_camera].append(nth)
    return rounds


def _new_windows(memory: Memory, windows: Sequence[tuple[int, Window]]) -> list[tuple[int, Window]]:
    """Return the windows of a camera that are not remembered yet."""
    last: MemoryChunk | Window | None = memory.chunks[-1] if memory.chunks else None
    new = list[tuple[int, Window]]()
    for nth, window in windows:
        may_be_back = window.is_set_back or (
            last is not None and window.after_gap and window.end < last.start
        )
        if last is None or window.start > last.end or may_be_back:
            new.append((nth, window))
            last = window
    return new
