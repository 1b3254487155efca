"""What the memory of all cameras takes, what this machine has, and what to change.

Reckoned, not measured: the shapes of the model, the plan of the memory and the windows of the
cameras say what each tier takes. Loads torch.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil

from analyzer.cards import places_of
from analyzer.errors import ModelUnusable
from analyzer.machine import HOST, free_on, kind_of
from analyzer.plan import AT_ONCE, Ledger, WindowShape, laid_out, largest_budget
from analyzer.settings import MemorySettings
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
"""One part in so many stays free, for what a pass computes."""
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

    `free` is what the device has free, `reading` what a pass lays out for each camera; any one
    of `changes` (`KEY: VALUE`) makes them fit.
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
        self.kind = kind_of(site.model.dtype, self.place)
        self.weights = self.outline.parameters * self.kind.itemsize
        self.free, self.host = free_on(self.place), free_on(HOST)

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

    def reading(self, memory: MemorySettings) -> int:
        """Return what a pass lays out for one camera, beside what is remembered."""
        plan, fetched = plan_of(memory), memory.int8 or self.place.type != "cpu"
        return max(
            laid_out(plan, self._blank_of(memory, shape), shape.length, fetched=fetched)
            for shape in self.site.shapes
        )

    def rooms(self, memory: MemorySettings, cameras: int) -> tuple[Room, ...]:
        """Return what so many cameras need, and what they may take, in each place."""
        camera = self.camera(memory)
        if memory.limit is not None:
            needed = cameras * camera.total
            return (Room(where=LIMIT, needed=needed, available=memory.limit),)
        near, far = camera.recent + camera.gist, camera.focus + camera.tokens
        if self.place.type == "cpu":
            near, far = near + far, 0
        # At the end of an epoch, one memory at a time is there twice.
        reading = self.reading(memory)
        passing = max(min(cameras, AT_ONCE) * reading, reading + near)
        on_device = Room(
            where=str(self.place),
            needed=cameras * near,
            available=_usable(self.free - self.weights, passing),
        )
        on_host = Room(where="host", needed=cameras * far, available=_usable(self.host, far))
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
            memory = _changed(self.site.memory, **{key: steps * step})
            return self.fits(memory, self.site.cameras)

        found = _most(most // step, fits) * step
        return found if found >= max(least, step) else None

    def _blank_of(self, memory: MemorySettings, shape: WindowShape) -> KVChunk:
        return self.blank(shape.stills, memory.epoch + shape.length)[0]


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
    """Say what would fit: a limit, a horizon, so many cameras."""
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
            epoch=memory.epoch,
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
        model = site.model.model_copy(update={"dtype": "bfloat16"})
        if Reckoning(replace(site, model=model)).fits(memory, site.cameras):
            yield "model.dtype: bfloat16"
    if memory.limit is not None:
        yield f"memory.limit: {size_setting(site.cameras * reckoning.camera(memory).total)}"
    cameras = reckoning.most_cameras(memory)
    if cameras:
        yield f"cameras: {cameras} instead of {site.cameras}"


def _changed(memory: MemorySettings, **changes: object) -> MemorySettings:
    """Return settings with changes, and what follows from them for the others to fit."""
    changed = memory.model_copy(update=changes)
    reach = changed.focus_horizon and min(changed.focus_horizon, changed.horizon)
    epoch = changed.epoch if changed.epoch > changed.horizon else 2 * changed.horizon
    return changed.model_copy(update={"focus_horizon": reach, "epoch": epoch})


def _usable(free: int, passing: int) -> int:
    """Return what may be taken of free bytes, where a pass takes so many for itself."""
    return max(0, free - max(ceil(free / SPARE), passing))


def _most(high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `high` that fits, where all smaller ones do, or 0."""
    return bisect_left(range(1, high + 1), True, key=lambda number: not fits(number))
