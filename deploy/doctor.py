"""What the memory of all cameras takes, what this machine has, and what to change.

Computed from the shapes of the model, the plan of the memory and the windows of the cameras;
once a model is loaded, what its passes take is measured instead. Loads torch.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Self

from analyzer.cards import places_of
from analyzer.errors import ModelUnusable
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
from analyzer.videoxl2.activations import reading, seeing
from analyzer.videoxl2.blank import blank_chunk
from analyzer.videoxl2.int8 import Int8Chunk
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.outline import Outline
from deploy.admission import Site
from deploy.assemble import plan_of
from deploy.settings import Key
from deploy.units import cameras_text, size_setting, size_text
from storage.duration import format_duration

HORIZONS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180))
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
        """Tell whether what is needed can be had."""
        return self.needed <= self.available


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a camera takes at one horizon, and how many of them fit."""

    horizon: timedelta
    epoch: timedelta
    camera: Ledger
    cameras: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkBytes:
    """The bytes of the largest chunk in each form."""

    stills: int
    dense: int
    int8: int
    pooled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Whether the settings fit this machine, and the figures behind it.

    `free` is what the device has free, `reading` what a pass lays out for each camera, `passing`
    what the largest pass takes in all; any one of `changes` (`KEY: VALUE`) makes them fit.
    """

    site: Site
    is_fetched: bool
    device: str
    dtype: str
    free: int
    weights: int
    token: int
    chunk: ChunkBytes
    camera: Ledger
    reading: int
    passing: int
    rooms: tuple[Room, ...]
    rows: tuple[Row, ...]
    changes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Tell whether all cameras can be remembered as the settings say."""
        return all(room.is_enough for room in self.rooms)


class Reckoning:
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
            memory = _changed(self.site.memory, **{key: steps * step})
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


def examine(site: Site) -> Diagnosis:
    """Reckon what a site needs and what its machine has; raises ModelUnusable."""
    reckoning, memory = Reckoning(site), site.memory
    camera, chunk = reckoning.camera(memory), reckoning.largest_chunk(memory)
    rooms = reckoning.rooms(memory, site.cameras)
    fits = all(room.is_enough for room in rooms)
    return Diagnosis(
        site=site,
        is_fetched=reckoning.outline.is_fetched,
        device=str(reckoning.place),
        dtype=reckoning.dtype,
        free=reckoning.free,
        weights=reckoning.weights,
        token=(chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes) // len(chunk),
        chunk=ChunkBytes(
            stills=max(shape.stills for shape in site.shapes),
            dense=chunk.nbytes,
            int8=Int8Chunk.of(chunk).nbytes,
            pooled=chunk.pooled(memory.compression).nbytes,
        ),
        camera=camera,
        reading=reckoning.reading(memory),
        passing=reckoning.passing(memory, site.cameras),
        rooms=rooms,
        rows=tuple(_rows(reckoning)),
        changes=() if fits else tuple(_changes(reckoning)),
    )


def refusal(site: Site) -> tuple[Key, str] | None:
    """Return the key to blame and one line, with the figures that fit; None where all fits."""
    try:
        reckoning = Reckoning(site)
    except ModelUnusable as error:
        return ("model", "device"), str(error)
    return shortage(reckoning)


def shortage(reckoning: Reckoning) -> tuple[Key, str] | None:
    """Return the same of what has been reckoned."""
    site = reckoning.site
    short = [room for room in reckoning.rooms(site.memory, site.cameras) if not room.is_enough]
    if not short:
        return None
    if reckoning.weights >= reckoning.free and short[0].where != LIMIT:
        told = f"its weights take {size_text(reckoning.weights)}"
        free = f"{reckoning.place} has {size_text(reckoning.free)} free"
        return ("model", "name"), f"{told}, {free}: see `longwatch doctor`"
    what = f"{format_duration(site.memory.horizon)} of memory for {cameras_text(site.cameras)}"
    told = f"{what} takes {size_text(short[0].needed)}"
    there, fitting = size_text(short[0].available), _what_fits(reckoning, short[0])
    if short[0].where == LIMIT:
        return ("memory", "limit"), f"{told}, the limit is {there}: {fitting}"
    return ("memory", "horizon"), f"{told}, {short[0].where} has room for {there}: {fitting}"


def _what_fits(reckoning: Reckoning, short: Room) -> str:
    """Say what would fit: a limit, a horizon, a number of cameras."""
    site = reckoning.site
    longest = reckoning.longest("horizon", site.memory.horizon, site.shortest)
    cameras = reckoning.most_cameras(site.memory)
    told = [f"a limit of {size_setting(short.needed)}"] if short.where == LIMIT else []
    told += [f"a horizon of {format_duration(longest)}"] if longest else []
    told += [f"{cameras_text(cameras)} at this horizon"] if cameras else []
    return f"what fits is {', or '.join(told)}" if told else "nothing fits: see `longwatch doctor`"


def _rows(reckoning: Reckoning) -> Iterator[Row]:
    """Yield what fits at the usual horizons and at the one that is set."""
    site = reckoning.site
    for horizon in sorted({*HORIZONS, site.memory.horizon}):
        if horizon < site.shortest:
            continue
        memory = _changed(site.memory, horizon=horizon)
        yield Row(
            horizon=horizon,
            epoch=plan_of(memory).epoch,
            camera=reckoning.camera(memory),
            cameras=reckoning.most_cameras(memory),
        )


def _changes(reckoning: Reckoning) -> Iterator[str]:
    """Yield the changes of one setting that make all cameras fit."""
    site, memory = reckoning.site, reckoning.site.memory
    horizon = reckoning.longest("horizon", memory.horizon, site.shortest)
    if horizon:
        yield f"memory.horizon: {format_duration(horizon)}"
    reach = plan_of(memory).focus_horizon
    focus = reckoning.longest("focus_horizon", reach, timedelta(seconds=1))
    if focus and focus < reach:
        yield f"memory.focus_horizon: {format_duration(focus)}"
    if reckoning.fits(_changed(memory, int8=True), site.cameras):
        yield "memory.int8: true"
    tokens = reckoning.outline.config.tokens_per_group
    for each in range(memory.compression + 1, tokens + 1):
        stronger = _changed(memory, compression=each)
        if tokens % each == 0 and reckoning.fits(stronger, site.cameras):
            yield f"memory.compression: {each}"
            break
    if reckoning.dtype == "float32":
        half = "bfloat16" if reckoning.place.type == "cpu" else reckoning.outline.config.on_cuda
        model = site.model.model_copy(update={"dtype": half})
        if Reckoning(replace(site, model=model)).fits(memory, site.cameras):
            yield f"model.dtype: {half}"
    if memory.limit is not None:
        (room,) = reckoning.rooms(memory, site.cameras)
        yield f"memory.limit: {size_setting(room.needed)}"
    cameras = reckoning.most_cameras(memory)
    if cameras:
        yield f"cameras: {cameras} instead of {site.cameras}"


def _changed(memory: MemorySettings, **changes: object) -> MemorySettings:
    """Return settings with changes, and what follows from them for the others to fit."""
    changed = memory.model_copy(update=changes)
    reach = changed.focus_horizon and min(changed.focus_horizon, changed.horizon)
    epoch = changed.epoch and max(changed.epoch, 2 * changed.horizon)
    return changed.model_copy(update={"focus_horizon": reach, "epoch": epoch})


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `high` that fits, where all smaller ones do, or 0."""
    return bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))
