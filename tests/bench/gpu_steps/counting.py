"""How many operations a pass starts: kernels on a card, dispatched operators on a CPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode,
)

from bench.gpu_steps.bench import Bench, Figures

Result = TypeVar("Result")

NO_KERNEL = frozenset({"empty", "empty_like", "new_empty", "empty_strided", "detach", "lift_fresh"})
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
GRAPHS = "cudaGraphLaunch"
MOST = 10


class Operators(TorchDispatchMode):
    """Counts what is dispatched; on a card each that is not a view starts about one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.views = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        name = func.overloadpacket.__name__
        if func.is_view or name in NO_KERNEL:
            self.views += 1
        else:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def kernels(self) -> int:
        """Return how many operators do more than look at memory in another way."""
        return self.counts.total()


def counted_as(kernels: int, work: Callable[..., Result]) -> Callable[..., Result]:
    """Return the same work, whose operators count as so many kernels."""

    def hidden(*arguments: Any, **named: Any) -> Result:
        counting = _get_current_dispatch_mode()
        with _disable_current_modes():
            result = work(*arguments, **named)
        if isinstance(counting, Operators):
            counting.counts[work.__name__] += kernels
        return result

    return hidden


class Profiles:
    """The profile of each block that ran under it, by name."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.figures: Figures = {}

    @contextmanager
    def under(self, name: str) -> Iterator[None]:
        """Profile what the block does."""
        if self._bench.is_cuda:
            with self._profiled(name):
                yield
            return
        with Operators() as operators:
            yield
        top = operators.counts.most_common(MOST)
        self.figures[name] = {"operators": operators.kernels, "views": operators.views, "top": top}

    @contextmanager
    def _profiled(self, name: str) -> Iterator[None]:
        self._bench.sync()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            yield
            self._bench.sync()
        self.figures[name] = _summary(profiled.key_averages())


def _summary(events: Any) -> Figures:
    calls = {event.key: event.count for event in events}
    kernels = [event for event in events if event.device_type.name == "CUDA"]
    top = sorted(kernels, key=lambda event: -event.self_device_time_total)[:MOST]
    return {
        "kernels": sum(event.count for event in kernels),
        "device_ms": round(sum(event.self_device_time_total for event in kernels) / 1e3, 2),
        "waits": sum(calls.get(name, 0) for name in WAITS),
        "waits_by": {name: calls[name] for name in WAITS if name in calls},
        "graph_launches": calls.get(GRAPHS, 0),
        "top": [
            (event.key[:60], event.count, round(event.self_device_time_total / 1e3, 2))
            for event in top
        ],
    }
