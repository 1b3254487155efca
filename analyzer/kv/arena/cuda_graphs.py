"""Passes as CUDA graphs: captured when a shape occurs the second time, then replayed.

A pass of the 8B launches thousands of kernels; a graph is one launch. The MAX_GRAPHS most
recently used shapes stay captured. The first pass of a shape, and every pass on a CPU, runs
without a graph.
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
    """A graph with its input and output tensors."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: Outputs

    def replay(self, inputs: Inputs) -> Outputs:
        """Run with new inputs of the same shapes; the outputs are valid until the next run."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs


class CudaGraphs:
    """Runs passes on one device, repeated ones as graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seen_shapes = set[Hashable]()
        self._captured = OrderedDict[Hashable, CapturedGraph]()
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._captured)

    def run(self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]) -> Outputs:
        """Return `work(inputs)`; `shape` must determine everything else that it depends on."""
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
        """Drop all graphs, for example after their memory has moved."""
        self._captured.clear()
        self._seen_shapes.clear()

    def _capture(
        self, shape: Hashable, inputs: Inputs, work: Callable[[Inputs], Outputs]
    ) -> Outputs:
        if len(self._captured) >= MAX_GRAPHS:
            self._captured.popitem(last=False)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads decode stills on this device at the same time.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = work(inputs)
        except torch.OutOfMemoryError:
            logger.warning("no memory for a CUDA graph: the pass runs without one")
            return work(inputs)
        self._captured[shape] = CapturedGraph(graph, inputs, outputs)
        return self._captured[shape].replay(inputs)
