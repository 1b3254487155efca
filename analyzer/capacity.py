"""How many cameras can be remembered on this machine, and what that takes.

Computed from the shapes of the model, the plan of the memory and the windows of the cameras;
once a model is loaded, what its passes take is measured instead. Loads torch.
"""

from bisect import bisect_left
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Self

from analyzer.cards import places_of
from analyzer.machine import HOST, free_on, kind_of
from analyzer.plan import (
    AT_ONCE,
    LANES,
    STEPS,
    TOGETHER,
    Ledger,
    WindowShape,
    arena_plan,
    laid_out,
    largest_budget,
    of_all,
    slots,
)
from analyzer.settings import MemorySettings
from analyzer.site import Site, plan_of
from analyzer.videoxl2.activations import reading, seeing
from analyzer.videoxl2.blank import blank_chunk
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.outline import Outline

MANY = 10_000
"""More cameras than anybody asks for."""
SPARE = 5
"""The host keeps a fifth of its memory free, or more where a pass takes more."""
RESERVE = 32
"""A card keeps this fraction (1/32) of its memory free beside what a pass takes."""
LIMIT = "memory.limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is needed in one place for all cameras, and what may be taken there."""

    where: str
    needed: int
    available: int

    @property
    def is_enough(self) -> bool:
        """Return whether what is needed can be had."""
        return self.needed <= self.available


class Capacity:
    """What a site needs and what its machine has, under any settings of the memory.

    Raises ModelUnusable where the model is not known or there is no such device.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.outline = Outline.find(site.model.name, site.model.revision)
        # Each of several cards must hold all cameras: it takes over from those that fail.
        self.place = places_of(site.model.device)[0]
        self.kind = kind_of(site.model.dtype, self.place, self.outline.config.on_cuda)
        self.weights = self.outline.parameters * self.kind.itemsize
        self.free, self.host = free_on(self.place), free_on(HOST)
        self._beyond = 0

    def measured(self, peak: int, arena: int = 0) -> Self:
        """Return the same for a loaded model, whose passes were seen to take `peak` bytes.

        `arena` bytes are taken for memories already.
        """
        found = copy(self)
        found.weights, found.free = 0, free_on(self.place) + arena
        found._beyond = peak - self._largest_pass(self.site.memory, self.site.cameras)
        return found

    @property
    def dtype(self) -> str:
        """Return the name of the precision, as settings have it."""
        return str(self.kind).removeprefix("torch.")

    def blank(self, stills: int, latest: timedelta) -> tuple[KVChunk, int]:
        """Return a chunk as `analyzer.plan.Blank` says."""
        stamp = self.outline.stamp(latest)
        return blank_chunk(self.outline.config, self.kind, stills, stamp)

    def largest_chunk(self, memory: MemorySettings) -> KVChunk:
        """Return the largest chunk of any camera."""
        return max((self._blank_of(memory, shape) for shape in self.site.shapes), key=len)

    def camera(self, memory: MemorySettings) -> Ledger:
        """Return the full memory of a camera."""
        return largest_budget(plan_of(memory), self.blank, self.site.shapes)

    def reading(self, memory: MemorySettings, reach: timedelta = timedelta.max) -> int:
        """Return what a pass lays out for one camera, as far back as `reach`."""
        plan, fetched = plan_of(memory), memory.int8 or self.place.type != "cpu"
        plan = replace(plan, horizon=min(plan.horizon, reach))
        return max(
            laid_out(plan, self._blank_of(memory, shape), shape.length, fetched=fetched)
            for shape in self.site.shapes
        )

    def passing(self, memory: MemorySettings, cameras: int) -> int:
        """Return what the largest pass takes at its peak, beside what is remembered."""
        return self._largest_pass(memory, cameras) + self._beyond

    def rooms(self, memory: MemorySettings, cameras: int) -> tuple[Room, ...]:
        """Return what a number of cameras needs, and what they may take, in each place."""
        needed = of_all(plan_of(memory), self.camera(memory), cameras)
        near, far = needed.recent + needed.gist, needed.focus + needed.tokens
        if self.place.type != "cpu":
            near = self._arena(memory, cameras)
        if memory.limit is not None:
            return (Room(where=LIMIT, needed=near + far, available=memory.limit),)
        if self.place.type == "cpu":
            near, far = near + far, 0
        on_device = Room(
            where=str(self.place), needed=near, available=self._usable(memory, cameras)
        )
        usable = max(0, self.host - ceil(self.host / SPARE))
        on_host = Room(where="host", needed=far, available=usable)
        return (on_device, on_host) if far else (on_device,)

    def fits(self, memory: MemorySettings, cameras: int) -> bool:
        """Return whether this number of cameras can be remembered."""
        return all(room.is_enough for room in self.rooms(memory, cameras))

    def most_cameras(self, memory: MemorySettings) -> int:
        """Return how many cameras can be remembered."""
        return _most(MANY, lambda cameras: self.fits(memory, cameras))

    def longest(self, key: str, most: timedelta, least: timedelta) -> timedelta | None:
        """Return the longest of the memory's horizons, up to `most`, with which all cameras fit."""
        step = min(shape.length for shape in self.site.shapes)

        def fits(steps: int) -> bool:
            memory = changed(self.site.memory, **{key: steps * step})
            return self.fits(memory, self.site.cameras)

        found = _most(most // step, fits) * step
        return found if found >= max(least, step) else None

    def _arena(self, memory: MemorySettings, cameras: int) -> int:
        """Return what the arena of a card takes, all of it from the start."""
        plan = plan_of(memory)
        arena = arena_plan(plan, self.blank, self.site.shapes, slots(plan, cameras))
        chunk = self.largest_chunk(memory)
        return arena.rows * ((chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes) // len(chunk))

    def _usable(self, memory: MemorySettings, cameras: int) -> int:
        """Return what memories may take of the device: what weights and passes leave."""
        free, passing = self.free - self.weights, self.passing(memory, cameras)
        if self.place.type == "cpu":
            return max(0, free - max(ceil(free / SPARE), passing))
        return max(0, free - passing - ceil(free / RESERVE))

    def _largest_pass(self, memory: MemorySettings, cameras: int) -> int:
        """Return what seeing, reading, asking or replying takes, as computed from shapes."""
        config, lanes = self.outline.config, min(cameras, LANES)
        chunk, laid = self.largest_chunk(memory), self.reading(memory)
        asked = sum(self.reading(memory, reach) for reach in self.site.reaches)
        asks = sum(map(self.outline.tokens, self.site.asks))
        token = chunk.nbytes // len(chunk)
        in_cache = self.place.type == "cpu"  # on a card nothing is laid
        return max(
            seeing(config, self.kind, AT_ONCE * max(shape.stills for shape in self.site.shapes)),
            lanes * laid * in_cache + reading(config, self.kind, lanes * len(chunk)),
            lanes * asked * in_cache + reading(config, self.kind, lanes * asks),
            laid,  # a reply in words is read behind one memory
            min(TOGETHER * token, STEPS * laid),
        )

    def _blank_of(self, memory: MemorySettings, shape: WindowShape) -> KVChunk:
        return self.blank(shape.stills, plan_of(memory).epoch + shape.length)[0]


def changed(memory: MemorySettings, **changes: object) -> MemorySettings:
    """Return settings with changes, and what follows from them for the others to fit."""
    new = memory.model_copy(update=changes)
    reach = new.focus_horizon and min(new.focus_horizon, new.horizon)
    epoch = new.epoch and max(new.epoch, 2 * new.horizon)
    return new.model_copy(update={"focus_horizon": reach, "epoch": epoch})


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `high` that fits, where all smaller ones do, or 0."""
    return bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))
