"""Whether the settings fit this machine, what fits it instead, and what to change; loads torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from analyzer.capacity import Capacity, Room, changed
from analyzer.plan import Ledger
from analyzer.site import Site, plan_of
from analyzer.videoxl2.int8 import Int8Chunk
from deploy.units import size_setting
from storage.duration import format_duration

HORIZONS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180))


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
        """Return whether all cameras can be remembered as the settings say."""
        return all(room.is_enough for room in self.rooms)


def examine(site: Site) -> Diagnosis:
    """Compute what a site needs and what its machine has; raises ModelUnusable."""
    capacity, memory = Capacity(site), site.memory
    camera, chunk = capacity.camera(memory), capacity.largest_chunk(memory)
    rooms = capacity.rooms(memory, site.cameras)
    fits = all(room.is_enough for room in rooms)
    return Diagnosis(
        site=site,
        is_fetched=capacity.outline.is_fetched,
        device=str(capacity.place),
        dtype=capacity.dtype,
        free=capacity.free,
        weights=capacity.weights,
        token=(chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes) // len(chunk),
        chunk=ChunkBytes(
            stills=max(shape.stills for shape in site.shapes),
            dense=chunk.nbytes,
            int8=Int8Chunk.of(chunk).nbytes,
            pooled=chunk.pooled(memory.compression).nbytes,
        ),
        camera=camera,
        reading=capacity.reading(memory),
        passing=capacity.passing(memory, site.cameras),
        rooms=rooms,
        rows=tuple(_rows(capacity)),
        changes=() if fits else tuple(_changes(capacity)),
    )


def _rows(capacity: Capacity) -> Iterator[Row]:
    """Yield what fits at the usual horizons and at the one that is set."""
    site = capacity.site
    for horizon in sorted({*HORIZONS, site.memory.horizon}):
        if horizon < site.shortest:
            continue
        memory = changed(site.memory, horizon=horizon)
        yield Row(
            horizon=horizon,
            epoch=plan_of(memory).epoch,
            camera=capacity.camera(memory),
            cameras=capacity.most_cameras(memory),
        )


def _changes(capacity: Capacity) -> Iterator[str]:
    """Yield the changes of one setting that make all cameras fit."""
    site, memory = capacity.site, capacity.site.memory
    horizon = capacity.longest("horizon", memory.horizon, site.shortest)
    if horizon:
        yield f"memory.horizon: {format_duration(horizon)}"
    reach = plan_of(memory).focus_horizon
    focus = capacity.longest("focus_horizon", reach, timedelta(seconds=1))
    if focus and focus < reach:
        yield f"memory.focus_horizon: {format_duration(focus)}"
    if capacity.fits(changed(memory, int8=True), site.cameras):
        yield "memory.int8: true"
    tokens = capacity.outline.config.tokens_per_group
    for each in range(memory.compression + 1, tokens + 1):
        stronger = changed(memory, compression=each)
        if tokens % each == 0 and capacity.fits(stronger, site.cameras):
            yield f"memory.compression: {each}"
            break
    if capacity.dtype == "float32":
        half = "bfloat16" if capacity.place.type == "cpu" else capacity.outline.config.on_cuda
        model = site.model.model_copy(update={"dtype": half})
        if Capacity(replace(site, model=model)).fits(memory, site.cameras):
            yield f"model.dtype: {half}"
    if memory.limit is not None:
        (room,) = capacity.rooms(memory, site.cameras)
        yield f"memory.limit: {size_setting(room.needed)}"
    cameras = capacity.most_cameras(memory)
    if cameras:
        yield f"cameras: {cameras} instead of {site.cameras}"
