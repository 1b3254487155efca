"""Passes as CUDA graphs: captured once they come again, replayed with other numbers.

A pass of the 8B starts thousands of kernels; as a graph it starts one. Few shapes occur, and no
more than `MOST` of them are captured at a time, the latest used. What has not been captured, and
everything on a CPU, is launched as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

MOST = 16

Inputs = tuple[Tensor, ...]
Outputs = tuple[Tensor, ...]

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: Outputs

    def replay(self, inputs: Inputs) -> Outputs:
        """Run with other inputs of the same shapes; the outputs are valid until the next run."""
        for mine, theirs in zip(self.inputs, inputs, strict=True):
            mine.copy_(theirs, non_blocking=True)
        self.graph.replay()
        return self.outputs


class Graphs:
    """Runs passes on one device, those that come again as graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen = set[Hashable]()
        self._captured = OrderedDict[Hashable, Captured]()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Outputs:
        """Return what `work` makes of inputs; `shape` is all that it depends on besides them."""
        if shape in self._captured:
            self._captured.move_to_end(shape)
            return self._captured[shape].replay(inputs)
        here = tuple(each.to(self.device, non_blocking=True) for each in inputs)
        if self._pool is None:
            return work(here)
        if shape not in self._seen:
            self._seen.add(shape)
            return work(here)
        return self._capture(shape, here, work)

    def clear(self) -> None:
        """Forget all graphs, as where the memory that they read has moved."""
        self._captured.clear()
        self._seen.clear()

    def _capture(
        self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]
    ) -> Outputs:
        if len(self._captured) >= MOST:
            self._captured.popitem(last=False)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads decode stills on this device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = work(inputs)
        except torch.OutOfMemoryError:
            logger.warning("no memory for a graph: its pass is launched as it is")
            return work(inputs)
        self._captured[shape] = Captured(graph, inputs, outputs)
        return self._captured[shape].replay(inputs)
