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

MAX_GRAPHS = 16

Inputs = tuple[Tensor, ...]
Outputs = tuple[Tensor, ...]

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CapturedGraph:
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: Outputs

    def replay(self, inputs: Inputs) -> Outputs:
        """Run with other inputs of the same shapes; the outputs are valid until the next run."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


class CudaGraphs:
    """Runs passes on one device, those that come again as graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen_shapes = set[Hashable]()
        self._captured = OrderedDict[Hashable, CapturedGraph]()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Outputs:
        """Return what `work` makes of inputs; `shape` is all that it depends on besides them."""
        if shape in self._captured:
            self._captured.move_to_end(shape)
            return self._captured[shape].replay(inputs)
        on_device = tuple(each.to(self.device, non_blocking=True) for each in inputs)
        if self._pool is None:
            return work(on_device)
        if shape not in self._seen_shapes:
            self._seen_shapes.add(shape)
            return work(on_device)
        return self._capture(shape, on_device, work)

    def clear(self) -> None:
        """Forget all graphs, as where the memory that they read has moved."""
        self._captured.clear()
        self._seen_shapes.clear()

    def _capture(
        self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]
    ) -> Outputs:
        if len(self._captured) >= MAX_GRAPHS:
            self._captured.popitem(last=False)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads decode stills on this device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = work(inputs)
        except torch.OutOfMemoryError:
            logger.warning("no memory for a graph: its pass is launched as it is")
            return work(inputs)
        self._captured[shape] = CapturedGraph(graph, inputs, outputs)
        return self._captured[shape].replay(inputs)
