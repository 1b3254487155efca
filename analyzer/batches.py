"""The passes of a model, as large as its device has room for.

A batch that does not fit is tried again in halves, and the size that fitted is kept for a while.
What cannot be taken even alone is returned as a failure, and costs the others nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import structlog
import torch

from analyzer.errors import DeviceLost, OutOfMemory
from analyzer.plan import AT_ONCE, LANES
from analyzer.videoxl2.arena import Form
from analyzer.videoxl2.speaker import Run, Said, Seen, Speaker, WindowToRead
from storage.errors import Unreadable

Failure: TypeAlias = Unreadable | OutOfMemory
"""Why one of a batch came to nothing."""
Asks: TypeAlias = tuple[Sequence[str], Sequence[Form]]

GROWS = 64
"""Passes that have to fit before a batch that was halved may be twice as large again."""
_FULL = ("out of memory", "allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
_LOST = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error", "NCCL error")

Item = TypeVar("Item")
Made = TypeVar("Made")

logger = structlog.get_logger()


@dataclass(slots=True)
class Limit:
    """How many go into a pass: `most`, or less after memory ran out."""

    most: int
    now: int = field(init=False)
    _fitted: int = 0

    def __post_init__(self) -> None:
        self.now = self.most

    def overflow(self, tried: int) -> None:
        """Take half of what was tried from now on."""
        self.now, self._fitted = max(1, tried // 2), 0
        logger.warning("out of memory on the device: smaller batches", at_once=self.now)

    def fit(self) -> None:
        """Take more again after enough passes that fitted."""
        self._fitted += 1
        if self._fitted >= GROWS and self.now < self.most:
            self.now, self._fitted = min(self.most, 2 * self.now), 0


class Batches:
    """Sees, reads and asks with a speaker in passes that fit.

    Each method returns what the speaker returns, with a failure in the place of what could not
    be taken. Raises DeviceLost where the device itself failed.
    """

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self._sees, self._reads, self._asks = Limit(AT_ONCE), Limit(LANES), Limit(LANES)

    def see(self, runs: Sequence[Run]) -> list[list[Seen | Failure]]:
        """Look at runs of windows; one that fails leaves the background as it was."""
        seen: list[list[Seen | Failure]] = [[] for _ in runs]
        grounds = [run.background for run in runs]
        alone = 0
        while any(len(done) < len(run.windows) for done, run in zip(seen, runs, strict=True)):
            room = 1 if alone else self._sees.now
            part = _next_windows(runs, [len(done) for done in seen], room)
            made = self._see_part(
                [
                    replace(runs[nth], windows=runs[nth].windows[span], background=grounds[nth])
                    for nth, span in part
                ]
            )
            count = sum(span.stop - span.start for _, span in part)
            alone = max(0, alone - 1)
            if isinstance(made, Unreadable | OutOfMemory) and count > 1:
                alone = count if isinstance(made, Unreadable) else 0
                continue
            for at, (nth, _) in enumerate(part):
                if isinstance(made, Unreadable | OutOfMemory):
                    seen[nth].append(made)
                else:
                    seen[nth] += made[at]
                    grounds[nth] = made[at][-1].background
        return seen

    def read(self, pieces: Sequence[WindowToRead], weight: int = 1) -> list[Form | Failure]:
        """Prefill pieces, each as long as `weight` windows."""
        return self._all(self.speaker.read, pieces, self._reads, weight)

    def read_together(self, pieces: Sequence[WindowToRead]) -> list[Form]:
        """Prefill pieces in one pass, neighbours too; return nothing where that is not possible."""
        if not self.speaker.reads_neighbours or len(pieces) > self._reads.now:
            return []
        made = attempt(lambda: self.speaker.read(pieces))
        return [] if isinstance(made, Unreadable | OutOfMemory) else made

    def ask(self, asks: Sequence[Asks]) -> list[Said | Failure]:
        """Ask sets of questions, each behind what is held."""
        return self._all(self.speaker.ask, asks, self._asks)

    def _see_part(self, runs: Sequence[Run]) -> list[list[Seen]] | Failure:
        windows = sum(len(run.windows) for run in runs)
        made = attempt(lambda: self.speaker.see(runs))
        if not isinstance(made, OutOfMemory):
            self._sees.fit()
            return made
        if windows > 1:
            self._sees.overflow(windows)
            return made
        empty_caches()
        return attempt(lambda: self.speaker.see(runs))

    def _all(
        self,
        work: Callable[[Sequence[Item]], list[Made]],
        items: Sequence[Item],
        limit: Limit,
        weight: int = 1,
    ) -> list[Made | Failure]:
        done: list[Made | Failure] = []
        while len(done) < len(items):
            part = items[len(done) :][: max(1, limit.now // weight)]
            more: list[Made | Failure] = self._some(work, part, limit, weight)
            done += more
        return done

    def _some(
        self,
        work: Callable[[Sequence[Item]], list[Made]],
        items: Sequence[Item],
        limit: Limit,
        weight: int,
    ) -> list[Made | Failure]:
        """Work on some in one pass, in halves where that fails."""
        made = attempt(lambda: work(items))
        if isinstance(made, OutOfMemory) and len(items) == 1:
            empty_caches()
            made = attempt(lambda: work(items))
        if not isinstance(made, Unreadable | OutOfMemory):
            limit.fit()
            return [*made]
        if len(items) == 1:
            return [made]
        if isinstance(made, OutOfMemory):
            limit.overflow(len(items) * weight)
        half = len(items) // 2
        return [
            each
            for part in (items[:half], items[half:])
            for each in self._some(work, part, limit, weight)
        ]


def _next_windows(runs: Sequence[Run], done: Sequence[int], room: int) -> list[tuple[int, slice]]:
    """Return which windows of which runs are next, in order, as many as there is room for."""
    part = list[tuple[int, slice]]()
    for nth, run in enumerate(runs):
        count = min(room, len(run.windows) - done[nth])
        if count:
            part.append((nth, slice(done[nth], done[nth] + count)))
            room -= count
    return part


def attempt(work: Callable[[], Made]) -> Made | Failure:
    """Return the result of some work, or a failure that holds none of its tensors.

    Raises DeviceLost.
    """
    try:
        return work()
    except Unreadable as error:
        return Unreadable(error.reason)
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _has(said, _FULL):
            return OutOfMemory("the device has no memory left for it")
        if isinstance(error, torch.AcceleratorError) or _has(said, _LOST):
            raise DeviceLost(f"the device failed: {said.splitlines()[0]}") from error
        raise


def _has(text: str, signs: Sequence[str]) -> bool:
    return any(sign in text for sign in signs)


def empty_caches() -> None:
    """Hand memory that nothing uses back to the device."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
