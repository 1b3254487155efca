"""How many cameras this machine can remember, and the bytes that this takes.

Computed from the shapes of the model, the memory plan and the windows of the cameras; once a
model is loaded, the peak of its passes is measured instead. Loads torch.
"""

from bisect import bisect_left
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Self

from analyzer.capacity.demand import MemoryDemand, plan_of
from analyzer.device import HOST, devices_of, dtype_of, free_bytes
from analyzer.kv.budget import (
    MAX_MEMORIES_PER_PASS,
    MAX_WINDOWS_PER_STEP,
    REPLY_MAX_CONTEXTS,
    REPLY_MAX_TOKENS,
    TierBytes,
    WindowShape,
    arena_plan,
    arena_slots,
    largest_budget,
    pass_copy_bytes,
    total_budget,
)
from analyzer.kv.cache import KVChunk
from analyzer.models.model_shape import ModelShape
from analyzer.models.videoxl2.sizes import encode_bytes, prefill_bytes, shape_only_chunk
from analyzer.settings import MemorySettings

MAX_CAMERAS = 10_000
"""Upper bound of `most_cameras`."""
HOST_RESERVE = 5
"""The host keeps this fraction (1/5) of its memory free, or more if a pass takes more."""
CARD_RESERVE = 32
"""A card keeps this fraction (1/32) of its memory free in addition to the bytes of a pass."""
LIMIT_KEY = "memory.limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRoom:
    """The bytes that all cameras need on one device, and the bytes available there."""

    where: str
    needed: int
    available: int

    @property
    def is_enough(self) -> bool:
        """Return whether the available bytes suffice."""
        return self.needed <= self.available


class Capacity:
    """The memory that a site needs and its machine has, under any memory settings.

    Raises ModelUnusable if the model is unknown or the device does not exist.
    """

    def __init__(self, demand: MemoryDemand) -> None:
        self.demand = demand
        self.shape = ModelShape.find(demand.model.name, demand.model.revision)
        # Each of several cards must have room for all cameras: it takes over from those that fail.
        self.device = devices_of(demand.model.device)[0]
        self.torch_dtype = dtype_of(demand.model.dtype, self.device, self.shape.config.cuda_dtype)
        self.weight_bytes = self.shape.parameters * self.torch_dtype.itemsize
        self.free_bytes, self.host_free_bytes = free_bytes(self.device), free_bytes(HOST)
        self._measured_extra = 0

    def with_measured_peak(self, peak: int, arena: int = 0) -> Self:
        """Return the capacity with a loaded model, whose passes took `peak` bytes when measured.

        `arena` bytes are allocated for memories already.
        """
        measured = copy(self)
        measured.weight_bytes, measured.free_bytes = 0, free_bytes(self.device) + arena
        measured._measured_extra = peak - self._largest_pass_bytes(
            self.demand.memory, self.demand.cameras
        )
        return measured

    @property
    def dtype(self) -> str:
        """Return the precision by its name in the settings."""
        return str(self.torch_dtype).removeprefix("torch.")

    def shape_only_chunk(self, stills: int, latest: timedelta) -> tuple[KVChunk, int]:
        """Implement `analyzer.kv.budget.ShapeOnlyChunkFactory`."""
        stamp = self.shape.timestamp_tokens(latest)
        return shape_only_chunk(self.shape.config, self.torch_dtype, stills, stamp)

    def largest_chunk(self, memory: MemorySettings) -> KVChunk:
        """Return the largest chunk of any camera."""
        return max(
            (self._shape_only_chunk_of(memory, shape) for shape in self.demand.shapes), key=len
        )

    def camera_bytes(self, memory: MemorySettings) -> TierBytes:
        """Return the bytes of a full memory of one camera."""
        return largest_budget(plan_of(memory), self.shape_only_chunk, self.demand.shapes)

    def context_bytes(self, memory: MemorySettings, look_back: timedelta = timedelta.max) -> int:
        """Return the bytes that a pass copies for one camera, as far back as `look_back`."""
        plan, fetched = plan_of(memory), memory.int8 or self.device.type != "cpu"
        plan = replace(plan, horizon=min(plan.horizon, look_back))
        return max(
            pass_copy_bytes(
                plan, self._shape_only_chunk_of(memory, shape), shape.length, is_copied=fetched
            )
            for shape in self.demand.shapes
        )

    def pass_bytes(self, memory: MemorySettings, cameras: int) -> int:
        """Return the peak bytes of the largest pass, without the memories."""
        return self._largest_pass_bytes(memory, cameras) + self._measured_extra

    def rooms(self, memory: MemorySettings, cameras: int) -> tuple[MemoryRoom, ...]:
        """Return the needed and available bytes per device for a number of cameras."""
        needed = total_budget(plan_of(memory), self.camera_bytes(memory), cameras)
        device_bytes, host_bytes = needed.recent + needed.gist, needed.focus + needed.tokens
        if self.device.type != "cpu":
            device_bytes = self._arena_bytes(memory, cameras)
        if memory.limit is not None:
            return (
                MemoryRoom(
                    where=LIMIT_KEY, needed=device_bytes + host_bytes, available=memory.limit
                ),
            )
        if self.device.type == "cpu":
            device_bytes, host_bytes = device_bytes + host_bytes, 0
        on_device = MemoryRoom(
            where=str(self.device),
            needed=device_bytes,
            available=self._usable_bytes(memory, cameras),
        )
        usable = max(0, self.host_free_bytes - ceil(self.host_free_bytes / HOST_RESERVE))
        on_host = MemoryRoom(where="host", needed=host_bytes, available=usable)
        return (on_device, on_host) if host_bytes else (on_device,)

    def has_room_for(self, memory: MemorySettings, cameras: int) -> bool:
        """Return whether this number of cameras fits."""
        return all(room.is_enough for room in self.rooms(memory, cameras))

    def most_cameras(self, memory: MemorySettings) -> int:
        """Return how many cameras fit."""
        return _largest_fitting(MAX_CAMERAS, lambda cameras: self.has_room_for(memory, cameras))

    def longest_horizon(self, key: str, most: timedelta, least: timedelta) -> timedelta | None:
        """Return the longest of the memory's horizons, up to `most`, with which all cameras fit."""
        step = min(shape.length for shape in self.demand.shapes)

        def fits(steps: int) -> bool:
            memory = with_changes(self.demand.memory, **{key: steps * step})
            return self.has_room_for(memory, self.demand.cameras)

        longest = _largest_fitting(most // step, fits) * step
        return longest if longest >= max(least, step) else None

    def _arena_bytes(self, memory: MemorySettings, cameras: int) -> int:
        """Return what the arena of a card takes, all of it from the start."""
        plan = plan_of(memory)
        arena = arena_plan(
            plan, self.shape_only_chunk, self.demand.shapes, arena_slots(plan, cameras)
        )
        chunk = self.largest_chunk(memory)
        return arena.rows * ((chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes) // len(chunk))

    def _usable_bytes(self, memory: MemorySettings, cameras: int) -> int:
        """Return what memories may take of the device: what weights and passes leave."""
        free, passing = self.free_bytes - self.weight_bytes, self.pass_bytes(memory, cameras)
        if self.device.type == "cpu":
            return max(0, free - max(ceil(free / HOST_RESERVE), passing))
        return max(0, free - passing - ceil(free / CARD_RESERVE))

    def _largest_pass_bytes(self, memory: MemorySettings, cameras: int) -> int:
        """Return what seeing, reading, asking or replying takes, as computed from shapes."""
        config, lanes = self.shape.config, min(cameras, MAX_MEMORIES_PER_PASS)
        chunk, laid = self.largest_chunk(memory), self.context_bytes(memory)
        asked = sum(self.context_bytes(memory, reach) for reach in self.demand.look_backs)
        asks = sum(map(self.shape.question_tokens, self.demand.asks))
        token = chunk.nbytes // len(chunk)
        in_cache = self.device.type == "cpu"  # on a card nothing is laid
        return max(
            encode_bytes(
                config,
                self.torch_dtype,
                MAX_WINDOWS_PER_STEP * max(shape.stills for shape in self.demand.shapes),
            ),
            lanes * laid * in_cache + prefill_bytes(config, self.torch_dtype, lanes * len(chunk)),
            lanes * asked * in_cache + prefill_bytes(config, self.torch_dtype, lanes * asks),
            laid,  # a reply in words is read behind one memory
            min(REPLY_MAX_TOKENS * token, REPLY_MAX_CONTEXTS * laid),
        )

    def _shape_only_chunk_of(self, memory: MemorySettings, shape: WindowShape) -> KVChunk:
        return self.shape_only_chunk(shape.stills, plan_of(memory).epoch + shape.length)[0]


def with_changes(memory: MemorySettings, **changes: object) -> MemorySettings:
    """Return settings with changes, and what follows from them for the others to fit."""
    new = memory.model_copy(update=changes)
    focus_horizon = new.focus_horizon and min(new.focus_horizon, new.horizon)
    epoch = new.epoch and max(new.epoch, 2 * new.horizon)
    return new.model_copy(update={"focus_horizon": focus_horizon, "epoch": epoch})


def _largest_fitting(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `high` that fits, where all smaller ones do, or 0."""
    return bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))
