"""How much memory the cameras of a site need, and how much its machine has. Loads torch."""

from bisect import bisect_left
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Self

from analyzer.machine import HOST, free_on, kind_of, place_of
from analyzer.plan import (
    AT_ONCE,
    STEPS,
    TOGETHER,
    Ledger,
    WindowShape,
    laid_out,
    largest_budget,
)
from analyzer.settings import MemorySettings
from analyzer.videoxl2.activations import reading, seeing
from analyzer.videoxl2.blank import blank_chunk
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.outline import Outline
from deploy.admission import Site
from deploy.assemble import plan_of

MANY = 10_000
"""More cameras than anybody asks for."""
SPARE = 5
"""One part in so many of the host's memory stays free, or more where a pass takes more."""
RESERVE = 32
"""One part in so many of a card's memory stays free beside what a pass takes."""
GROWING = 2.5
"""A memory that an answer in words outgrows is there twice, once with half as much room again."""
LIMIT = "memory.limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is needed in one place for all cameras, and what may be taken there."""

    where: str
    needed: int
    available: int

    @property
    def is_enough(self) -> bool:
        """Tell whether what is needed can be had."""
        return self.needed <= self.available


class Capacity:
    """What a site needs and what its machine has, under any settings of the memory.

    Raises ModelUnusable where the model is not known or there is no such device.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.outline = Outline.find(site.model.name, site.model.revision)
        self.place = place_of(site.model.device)
        self.kind = kind_of(site.model.dtype, self.place, self.outline.config.on_cuda)
        self.weights = self.outline.parameters * self.kind.itemsize
        self.free, self.host = free_on(self.place), free_on(HOST)
        self._beyond = 0

    def measured(self, peak: int) -> Self:
        """Return the same for a loaded model, whose passes were seen to take `peak` bytes."""
        found = copy(self)
        found.weights, found.free = 0, free_on(self.place)
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
        camera = self.camera(memory)
        near = camera.recent + camera.gist + (self.place.type == "cpu") * camera.focus
        # At the end of an epoch, one memory at a time is there twice.
        turning = self.reading(memory) + near
        return max(self._largest_pass(memory, cameras) + self._beyond, turning)

    def rooms(self, memory: MemorySettings, cameras: int) -> tuple[Room, ...]:
        """Return what so many cameras need, and what they may take, in each place."""
        camera = self.camera(memory)
        if memory.limit is not None:
            needed = cameras * camera.total
            return (Room(where=LIMIT, needed=needed, available=memory.limit),)
        near, far = camera.recent + camera.gist, camera.focus + camera.tokens
        if self.place.type == "cpu":
            near, far = near + far, 0
        on_device = Room(
            where=str(self.place),
            needed=cameras * near,
            available=self._usable(memory, cameras),
        )
        usable = max(0, self.host - max(ceil(self.host / SPARE), far))
        on_host = Room(where="host", needed=cameras * far, available=usable)
        return (on_device, on_host) if far else (on_device,)

    def fits(self, memory: MemorySettings, cameras: int) -> bool:
        """Tell whether so many cameras can be remembered."""
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

    def _usable(self, memory: MemorySettings, cameras: int) -> int:
        """Return what memories may take of the device: what weights and passes leave."""
        free, passing = self.free - self.weights, self.passing(memory, cameras)
        if self.place.type == "cpu":
            return max(0, free - max(ceil(free / SPARE), passing))
        return max(0, free - passing - ceil(free / RESERVE))

    def _largest_pass(self, memory: MemorySettings, cameras: int) -> int:
        """Return what seeing, reading, asking or replying takes, as computed from shapes."""
        config, lanes = self.outline.config, min(cameras, AT_ONCE)
        chunk, laid = self.largest_chunk(memory), self.reading(memory)
        asked = sum(self.reading(memory, reach) for reach in self.site.reaches)
        asks = sum(map(self.outline.tokens, self.site.asks))
        token = chunk.nbytes // len(chunk)
        return max(
            seeing(config, self.kind, AT_ONCE * max(shape.stills for shape in self.site.shapes)),
            lanes * laid + reading(config, self.kind, lanes * len(chunk)),
            lanes * asked + reading(config, self.kind, lanes * asks),
            min(TOGETHER * token, STEPS * laid),
            round(GROWING * laid),
        )

    def _blank_of(self, memory: MemorySettings, shape: WindowShape) -> KVChunk:
        return self.blank(shape.stills, memory.epoch + shape.length)[0]


def changed(memory: MemorySettings, **changes: object) -> MemorySettings:
    """Return settings with changes, and what follows from them for the others to fit."""
    changed = memory.model_copy(update=changes)
    reach = changed.focus_horizon and min(changed.focus_horizon, changed.horizon)
    epoch = changed.epoch if changed.epoch > changed.horizon else 2 * changed.horizon
    return changed.model_copy(update={"focus_horizon": reach, "epoch": epoch})


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `high` that fits, where all smaller ones do, or 0."""
    return bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))
