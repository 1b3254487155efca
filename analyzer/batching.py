"""Run a model in passes that fit its device.

A batch that does not fit is run again in halves, and later batches start at the size that fitted.
An item that fails even alone is returned as a failure and leaves the others unaffected.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import structlog
import torch

from analyzer.errors import DeviceLost, OutOfMemory
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MAX_MEMORIES_PER_PASS, MAX_WINDOWS_PER_STEP
from analyzer.kv.encoded import EncodedWindow
from analyzer.models.messages import ScoreInput, WindowRun, WindowToRemember, YesNoScores
from analyzer.models.runner import ModelRunner
from storage.errors import Unreadable

Failure: TypeAlias = Unreadable | OutOfMemory
"""Why one item of a batch failed."""

PASSES_TO_GROW = 64
"""Passes that must fit before a halved batch size doubles again."""
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
_DEVICE_LOST = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "NCCL error")

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = structlog.get_logger()


@dataclass(slots=True)
class BatchLimit:
    """How many items go into a pass: `maximum`, or fewer after memory ran out."""

    maximum: int
    current: int = field(init=False)
    _passes_fitted: int = 0

    def __post_init__(self) -> None:
        self.current = self.maximum

    def halve(self, tried: int) -> None:
        """Limit the next passes to half of the size that failed."""
        self.current, self._passes_fitted = max(1, tried // 2), 0
        logger.warning("out of memory on the device: smaller batches", at_once=self.current)

    def record_fit(self) -> None:
        """Double the limit after enough passes that fitted."""
        self._passes_fitted += 1
        if self._passes_fitted >= PASSES_TO_GROW and self.current < self.maximum:
            self.current, self._passes_fitted = min(self.maximum, 2 * self.current), 0


class BatchedRunner:
    """Calls a ModelRunner in passes that fit.

    Each method returns the runner's results, with a failure in place of each item that failed.
    Raises DeviceLost if the device itself fails.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self._encode_limit, self._prefill_limit, self._score_limit = (
            BatchLimit(MAX_WINDOWS_PER_STEP),
            BatchLimit(MAX_MEMORIES_PER_PASS),
            BatchLimit(MAX_MEMORIES_PER_PASS),
        )

    def encode(self, runs: Sequence[WindowRun]) -> list[list[EncodedWindow | Failure]]:
        """Encode runs of windows; a failed window leaves the background of its run unchanged."""
        encoded: list[list[EncodedWindow | Failure]] = [[] for _ in runs]
        backgrounds = [run.background for run in runs]
        alone = 0
        while any(len(done) < len(run.windows) for done, run in zip(encoded, runs, strict=True)):
            limit = 1 if alone else self._encode_limit.current
            part = _next_windows(runs, [len(done) for done in encoded], limit)
            result = self._encode_part(
                [
                    replace(runs[nth], windows=runs[nth].windows[span], background=backgrounds[nth])
                    for nth, span in part
                ]
            )
            count = sum(span.stop - span.start for _, span in part)
            alone = max(0, alone - 1)
            if isinstance(result, Unreadable | OutOfMemory) and count > 1:
                alone = count if isinstance(result, Unreadable) else 0
                continue
            for at, (nth, _) in enumerate(part):
                if isinstance(result, Unreadable | OutOfMemory):
                    encoded[nth].append(result)
                else:
                    encoded[nth] += result[at]
                    backgrounds[nth] = result[at][-1].background
        return encoded

    def prefill(
        self, inputs: Sequence[WindowToRemember], weight: int = 1
    ) -> list[AnyChunk | Failure]:
        """Prefill inputs, each as long as `weight` windows."""
        return self._run_all(self.runner.prefill, inputs, self._prefill_limit, weight)

    def prefill_together(self, inputs: Sequence[WindowToRemember]) -> list[AnyChunk]:
        """Prefill inputs in one pass, consecutive ones too; return [] if that is not possible."""
        if not self.runner.can_prefill_neighbours or len(inputs) > self._prefill_limit.current:
            return []
        result = attempt(lambda: self.runner.prefill(inputs))
        return [] if isinstance(result, Unreadable | OutOfMemory) else result

    def score(self, inputs: Sequence[ScoreInput]) -> list[YesNoScores | Failure]:
        """Score sets of questions, each with its context."""
        return self._run_all(self.runner.score, inputs, self._score_limit)

    def _encode_part(self, runs: Sequence[WindowRun]) -> list[list[EncodedWindow]] | Failure:
        windows = sum(len(run.windows) for run in runs)
        result = attempt(lambda: self.runner.encode(runs))
        if not isinstance(result, OutOfMemory):
            self._encode_limit.record_fit()
            return result
        if windows > 1:
            self._encode_limit.halve(windows)
            return result
        empty_caches()
        return attempt(lambda: self.runner.encode(runs))

    def _run_all(
        self,
        work: Callable[[Sequence[Item]], list[Result]],
        items: Sequence[Item],
        limit: BatchLimit,
        weight: int = 1,
    ) -> list[Result | Failure]:
        done: list[Result | Failure] = []
        while len(done) < len(items):
            part = items[len(done) :][: max(1, limit.current // weight)]
            more: list[Result | Failure] = self._run_in_halves(work, part, limit, weight)
            done += more
        return done

    def _run_in_halves(
        self,
        work: Callable[[Sequence[Item]], list[Result]],
        items: Sequence[Item],
        limit: BatchLimit,
        weight: int,
    ) -> list[Result | Failure]:
        """Run items in one pass, or in halves if that fails."""
        result = attempt(lambda: work(items))
        if isinstance(result, OutOfMemory) and len(items) == 1:
            empty_caches()
            result = attempt(lambda: work(items))
        if not isinstance(result, Unreadable | OutOfMemory):
            limit.record_fit()
            return [*result]
        if len(items) == 1:
            return [result]
        if isinstance(result, OutOfMemory):
            limit.halve(len(items) * weight)
        half = len(items) // 2
        return [
            each
            for part in (items[:half], items[half:])
            for each in self._run_in_halves(work, part, limit, weight)
        ]


def _next_windows(
    runs: Sequence[WindowRun], done: Sequence[int], limit: int
) -> list[tuple[int, slice]]:
    """Return the next `limit` windows as (run, slice), in order."""
    part = list[tuple[int, slice]]()
    for nth, run in enumerate(runs):
        count = min(limit, len(run.windows) - done[nth])
        if count:
            part.append((nth, slice(done[nth], done[nth] + count)))
            limit -= count
    return part


def attempt(work: Callable[[], Result]) -> Result | Failure:
    """Return the result of some work, or a failure without references to its tensors.

    Raises DeviceLost.
    """
    try:
        return work()
    except Unreadable as error:
        return Unreadable(error.reason)
    except (RuntimeError, MemoryError) as error:
        message = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _has_any(
            message, _OUT_OF_MEMORY
        ):
            return OutOfMemory("the device has no memory left for it")
        if isinstance(error, torch.AcceleratorError) or _has_any(message, _DEVICE_LOST):
            raise DeviceLost(f"the device failed: {message.splitlines()[0]}") from error
        raise


def _has_any(text: str, parts: Sequence[str]) -> bool:
    return any(sign in text for sign in parts)


def empty_caches() -> None:
    """Return unused cached memory to the device."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
