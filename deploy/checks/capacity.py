"""Compute whether the settings fit this machine, and what to change; loads torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from analyzer.capacity.capacity import Capacity, MemoryRoom, with_changes
from analyzer.capacity.demand import MemoryDemand, plan_of
from analyzer.kv.budget import TierBytes
from analyzer.kv.int8 import Int8Chunk
from deploy.format_bytes import format_bytes_setting
from storage.duration import format_duration

HORIZONS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180))


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonRow:
    """The memory of a camera at one horizon, and how many cameras fit."""

    horizon: timedelta
    epoch: timedelta
    camera_bytes: TierBytes
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
    """The memory that the settings need and that this machine has.

    `pass_bytes` is the peak of the largest pass; each of `changes` (`KEY: VALUE`) alone makes the
    settings fit.
    """

    site: MemoryDemand
    is_fetched: bool
    device: str
    dtype: str
    free_bytes: int
    weight_bytes: int
    token_bytes: int
    chunk_bytes: ChunkBytes
    camera_bytes: TierBytes
    pass_bytes_per_camera: int
    pass_bytes: int
    rooms: tuple[MemoryRoom, ...]
    horizons: tuple[HorizonRow, ...]
    changes: tuple[str, ...]

    @property
    def has_room(self) -> bool:
        """Return whether the memories of all cameras fit."""
        return all(room.is_enough for room in self.rooms)


def diagnose(site: MemoryDemand) -> Diagnosis:
    """Compute what a site needs and what its machine has; raise ModelUnusable."""
    capacity, memory = Capacity(site), site.memory
    camera, chunk = capacity.camera_bytes(memory), capacity.largest_chunk(memory)
    rooms = capacity.rooms(memory, site.cameras)
    fits = all(room.is_enough for room in rooms)
    return Diagnosis(
        site=site,
        is_fetched=capacity.shape.is_fetched,
        device=str(capacity.device),
        dtype=capacity.dtype,
        free_bytes=capacity.free_bytes,
        weight_bytes=capacity.weight_bytes,
        token_bytes=(chunk.keys_NKTD.nbytes + chunk.values_NKTD.nbytes) // len(chunk),
        chunk_bytes=ChunkBytes(
            stills=max(shape.stills for shape in site.shapes),
            dense=chunk.nbytes,
            int8=Int8Chunk.quantise(chunk).nbytes,
            pooled=chunk.pooled(memory.compression).nbytes,
        ),
        camera_bytes=camera,
        pass_bytes_per_camera=capacity.context_bytes(memory),
        pass_bytes=capacity.pass_bytes(memory, site.cameras),
        rooms=rooms,
        horizons=tuple(_rows(capacity)),
        changes=() if fits else tuple(_changes(capacity)),
    )


def _rows(capacity: Capacity) -> Iterator[HorizonRow]:
    """Yield what fits at the usual horizons and at the configured one."""
    site = capacity.demand
    for horizon in sorted({*HORIZONS, site.memory.horizon}):
        if horizon < site.min_horizon:
            continue
        memory = with_changes(site.memory, horizon=horizon)
        yield HorizonRow(
            horizon=horizon,
            epoch=plan_of(memory).epoch,
            camera_bytes=capacity.camera_bytes(memory),
            cameras=capacity.most_cameras(memory),
        )


def _changes(capacity: Capacity) -> Iterator[str]:
    """Yield the changes of one setting that make all cameras fit."""
    site, memory = capacity.demand, capacity.demand.memory
    horizon = capacity.longest_horizon("horizon", memory.horizon, site.min_horizon)
    if horizon:
        yield f"memory.horizon: {format_duration(horizon)}"
    focus_horizon = plan_of(memory).focus_horizon
    longest_focus = capacity.longest_horizon("focus_horizon", focus_horizon, timedelta(seconds=1))
    if longest_focus and longest_focus < focus_horizon:
        yield f"memory.focus_horizon: {format_duration(longest_focus)}"
    if capacity.has_room_for(with_changes(memory, int8=True), site.cameras):
        yield "memory.int8: true"
    tokens = capacity.shape.config.tokens_per_group
    for each in range(memory.compression + 1, tokens + 1):
        stronger = with_changes(memory, compression=each)
        if tokens % each == 0 and capacity.has_room_for(stronger, site.cameras):
            yield f"memory.compression: {each}"
            break
    if capacity.dtype == "float32":
        half = "bfloat16" if capacity.device.type == "cpu" else capacity.shape.config.cuda_dtype
        model = site.model.model_copy(update={"dtype": half})
        if Capacity(replace(site, model=model)).has_room_for(memory, site.cameras):
            yield f"model.dtype: {half}"
    if memory.limit is not None:
        (room,) = capacity.rooms(memory, site.cameras)
        yield f"memory.limit: {format_bytes_setting(room.needed)}"
    cameras = capacity.most_cameras(memory)
    if cameras:
        yield f"cameras: {cameras} instead of {site.cameras}"
